-- Deletes the statistics of a closed minute that was stored durably.
--
-- KEYS[1]  the domain
-- ARGV[1]  the minute
-- Returns  how many minutes were deleted: 0 or 1

redis.call('DEL', KEYS[1] .. ':stat:' .. ARGV[1])
return redis.call('ZREM', KEYS[1] .. ':minutes', ARGV[1])
