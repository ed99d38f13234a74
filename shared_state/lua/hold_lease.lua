-- Takes or renews the lead among schedulers. The token is larger than every one before, even after a failover that forgot the last.
--
-- KEYS[1]  the lease
-- ARGV[1]  owner
-- ARGV[2]  length of the lease, ms
-- ARGV[3]  hold or release
-- Returns  {owner, token, until ms, now ms}; the caller leads if the owner is itself
--#include now

local now, me = now_ms(), ARGV[1]
local lease = redis.call('HMGET', KEYS[1], 'owner', 'token', 'until')
local owner, token, ends = lease[1], tonumber(lease[2] or 0), tonumber(lease[3] or 0)
if ARGV[3] == 'release' then
  if owner == me then redis.call('HSET', KEYS[1], 'owner', '', 'until', 0) end
  return { '', token, 0, now }
end
if owner == me and now < ends then
  ends = now + tonumber(ARGV[2])
  redis.call('HSET', KEYS[1], 'until', int(ends))
elseif now >= ends then
  owner, token, ends = me, math.max(token + 1, now), now + tonumber(ARGV[2])
  redis.call('HSET', KEYS[1], 'owner', owner, 'token', int(token), 'until', int(ends), 'since', int(now))
end
return { owner, token, ends, now }
