-- Notes that a copy of the domain is stored durably, unless the domain is not the one that was copied any more; or that there is no
-- copy which nodes could wait for.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  time of the copy, ms; 0: there is nothing to wait for
-- Returns  1, 0 if the domain was lost or copied anew since, -1 if the token is out of date
--#include now
--#include fence

if fenced_off(tonumber(ARGV[1])) then return -1 end
local taken = tonumber(ARGV[2])
if taken == 0 then
  redis.call('HDEL', KEYS[1], 'wants_copy')
  return 1
end
if tonumber(redis.call('HGET', KEYS[1], 'copying') or 0) ~= taken then return 0 end
redis.call('HSET', KEYS[1], 'copied', int(taken))
return 1
