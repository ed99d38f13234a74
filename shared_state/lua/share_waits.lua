-- Keeps how long attempts on some models waited for their first content, and tells what 19 of 20 of the latest stayed below. Idempotent by reservation.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {{model, {reservation, ms, ...}}, ...}
-- Returns  for each model that wait in ms, -1 while fewer than 20 are known; reckoned anew once a second, whoever asks
--#include now

local KEPT_MS, FRESH_MS, MOST, FEWEST, SHARE = 600000, 1000, 200, 20, 0.95
local usual, now, reply = KEYS[1] .. ':usual', now_ms(), {}

local function waits_of(key)
  local waits = {}
  for i, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do waits[i] = tonumber(member:match('\t(%d+)$')) end
  table.sort(waits)
  return waits
end

local function reckon(model, key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now - KEPT_MS))
  redis.call('ZREMRANGEBYRANK', key, 0, -MOST - 1)
  local waits = waits_of(key)
  if #waits < FEWEST then
    redis.call('HDEL', usual, model)
    return -1
  end
  local wait = waits[math.floor(SHARE * #waits) + 1]
  redis.call('HSET', usual, model, int(now) .. ' ' .. int(wait))
  redis.call('PEXPIRE', usual, KEPT_MS)
  return wait
end

-- What was reckoned less than a second ago; nil if nothing was.
local function known(model)
  local at, wait = (redis.call('HGET', usual, model) or ''):match('^(%d+) (%d+)$')
  return at and math.abs(now - tonumber(at)) < FRESH_MS and tonumber(wait) or nil
end

for i, asked in ipairs(cmsgpack.unpack(ARGV[1])) do
  local model, told = asked[1], asked[2]
  local key = KEYS[1] .. ':waits:' .. model
  for j = 1, #told, 2 do
    redis.call('ZADD', key, 'NX', int(now), told[j] .. '\t' .. int(told[j + 1]))
  end
  if #told > 0 then redis.call('PEXPIRE', key, KEPT_MS) end
  reply[i] = known(model) or reckon(model, key)
end
return reply
