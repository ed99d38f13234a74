-- Closes all minutes before a given one: whatever the clock does, no settlement counts into them any more.
--
-- KEYS[1]  the domain
-- ARGV[1]  the first minute that stays open
-- Returns  {closed minute with statistics, ...}, oldest first

local first = tonumber(ARGV[1])
if tonumber(redis.call('HGET', KEYS[1], 'minute') or 0) < first then redis.call('HSET', KEYS[1], 'minute', ARGV[1]) end
return redis.call('ZRANGEBYSCORE', KEYS[1] .. ':minutes', '-inf', '(' .. ARGV[1], 'LIMIT', 0, 10000)
