-- Puts a proposed version into force, or withdraws it. Idempotent: what is in force stays so.
--
-- KEYS[1]  the versions
-- ARGV[1]  number
-- ARGV[2]  1: into force, 0: withdrawn
-- ARGV[3]  how many numbers are remembered
-- ARGV[4]  channel
-- ARGV[5]  node
-- Returns  1 if it is in force, 0 if not: it was withdrawn, or another proposal has come after it
-- Publishes config_changed, config_withdrawn
--#include now
--#include versions

local number = tonumber(ARGV[1])
if field('current') == number then return 1 end
if field('proposed') ~= number then return 0 end
redis.call('HDEL', KEYS[1], 'proposed', 'ticket')
if ARGV[2] ~= '1' then
  drop_version(number)
  announce('config_withdrawn', number, ARGV[4], ARGV[5], now_ms())
  return 0
end
redis.call('HSET', KEYS[1], 'current', number)
for _, known in ipairs(redis.call('HKEYS', KEYS[1] .. ':documents')) do
  if tonumber(known) <= number - tonumber(ARGV[3]) then drop_version(known) end
end
announce('config_changed', number, ARGV[4], ARGV[5], now_ms())
return 1
