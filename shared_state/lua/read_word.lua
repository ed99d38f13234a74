-- What the scheduler that leads thinks of the version of the configuration that was proposed.
--
-- KEYS[1]  the lease
-- Returns  {owner, number of the version that it has judged last, why it cannot run that}; {} if nobody leads, or one without a say
--#include now

local lease = redis.call('HMGET', KEYS[1], 'owner', 'judged', 'verdict', 'until')
if not lease[1] or lease[1] == '' or not lease[2] or tonumber(lease[4] or 0) <= now_ms() then return {} end
return { lease[1], lease[2], lease[3] or '' }
