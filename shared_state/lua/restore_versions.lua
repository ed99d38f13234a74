-- Says again what a store has forgotten of the versions of the configuration, out of a durable copy. Numbers only ever grow, so a smaller one in
-- force proves a loss; a larger one was pushed since, and stays. Idempotent.
--
-- KEYS[1]  the versions
-- ARGV[1]  the number that was in force
-- ARGV[2]  the largest that was given out
-- ARGV[3]  msgpack {{number, what is told about it (JSON), document (JSON), when it was made ms}, ...}
-- ARGV[4]  how many numbers are remembered
-- ARGV[5]  channel
-- ARGV[6]  node
-- Returns  how many versions were put back
-- Publishes config_changed
--#include now
--#include versions

local number, current, put_back = tonumber(ARGV[1]), field('current'), 0
local latest = math.max(number, current)
local proposed = field('proposed')
if proposed > 0 and proposed <= number then -- it was numbered by a store that had forgotten
  redis.call('HDEL', KEYS[1], 'proposed', 'ticket')
  drop_version(proposed)
end
for _, v in ipairs(cmsgpack.unpack(ARGV[3])) do
  if v[1] > latest - tonumber(ARGV[4]) and redis.call('HEXISTS', KEYS[1] .. ':documents', v[1]) == 0 then
    keep_version(v[1], v[2], v[3], v[4])
    put_back = put_back + 1
  end
end
redis.call('HSET', KEYS[1], 'last', math.max(tonumber(ARGV[2]), field('last')))
if current < number then
  redis.call('HSET', KEYS[1], 'current', number)
  announce('config_changed', number, ARGV[5], ARGV[6], now_ms())
end
return put_back
