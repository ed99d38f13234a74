-- Lets go of a closed minute that was stored durably: it is owed to nobody any more, but stays for a while for those who ask what was lately.
--
-- KEYS[1]  the domain
-- ARGV[1]  the minute
-- ARGV[2]  how long its statistics stay, ms
-- Returns  how many minutes were let go: 0 or 1

redis.call('PEXPIRE', KEYS[1] .. ':stat:' .. ARGV[1], ARGV[2], 'NX')
return redis.call('ZREM', KEYS[1] .. ':minutes', ARGV[1])
