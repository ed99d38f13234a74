-- Keeps how far a target of events was told, unless another scheduler leads by now.
--
-- KEYS[1]  the targets
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  name of the target
-- ARGV[3]  its mark, JSON
-- Returns  1, -1 if the token is out of date
--#include now
--#include fence

if fenced_off(tonumber(ARGV[1])) then return -1 end
redis.call('HSET', KEYS[1], 't:' .. ARGV[2], ARGV[3])
return 1
