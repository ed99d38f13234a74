-- A sign of life of a claim's owner.
--
-- KEYS[1]  hash of the claim
-- ARGV[1]  owner
-- ARGV[2]  life of the claim from now on, ms
-- Returns  1; 0 if the claim is not the owner's any more

local state, owner = unpack(redis.call('HMGET', KEYS[1], 'state', 'owner'))
if state ~= 'running' or owner ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
