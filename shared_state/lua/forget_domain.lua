-- Deletes what is left of a quota domain that no configuration has any more, unless something there is still owed. Idempotent.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  msgpack {model, ...}
-- ARGV[3]  msgpack {provider, ...}
-- Returns  1 it is gone, 0 calls are in flight or leases are held, -2 statistics were not stored durably yet, -1 the token is out of date
--#include now
--#include fence
--#include bookkeeping

if fenced_off(tonumber(ARGV[1])) then return -1 end
local now, tally = now_ms(), new_tally()
local expired = redis.call('ZRANGEBYSCORE', KEYS[1] .. ':flight', '-inf', int(now), 'LIMIT', 0, 200)
if #expired > 0 then -- nobody else books them here
  abandon(expired, tally)
  save_tally(tally, now)
  return 0
end
if redis.call('EXISTS', KEYS[1] .. ':flight') == 1 then return 0 end
if #redis.call('ZRANGEBYSCORE', KEYS[1] .. ':lease:ends', int(now), '+inf', 'LIMIT', 0, 1) > 0 then return 0 end
if redis.call('EXISTS', KEYS[1] .. ':minutes') == 1 then return -2 end

for _, part in ipairs({ 'win:a', 'seq', 'lease', 'lease:ends', 'done', 'books', 'due', 'news', 'health', 'turns', 'current', 'retries', 'panic', 'usual' }) do
  redis.call('UNLINK', KEYS[1] .. ':' .. part)
end
for _, model in ipairs(cmsgpack.unpack(ARGV[2])) do
  redis.call('UNLINK', KEYS[1] .. ':model:' .. model, KEYS[1] .. ':win:m:' .. model, KEYS[1] .. ':res:' .. model,
    KEYS[1] .. ':waits:' .. model)
end
for _, provider in ipairs(cmsgpack.unpack(ARGV[3])) do
  redis.call('UNLINK', KEYS[1] .. ':provider:' .. provider, KEYS[1] .. ':list:' .. provider)
end
redis.call('UNLINK', KEYS[1])
return 1
