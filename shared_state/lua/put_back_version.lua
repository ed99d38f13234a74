-- Says again which version is in force to a store that has forgotten it: numbers only ever grow, so a smaller one proves a loss.
--
-- KEYS[1]  the versions
-- ARGV[1]  number
-- ARGV[2]  what is told about it, JSON
-- ARGV[3]  document, JSON
-- ARGV[4]  when it was made, ms
-- Returns  the version in force
--#include now
--#include versions

local number, current = tonumber(ARGV[1]), field('current')
if current >= number then return current end
keep_version(number, ARGV[2], ARGV[3], tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'current', number, 'last', math.max(number, field('last')))
if field('proposed') <= number then redis.call('HDEL', KEYS[1], 'proposed', 'ticket') end
return number
