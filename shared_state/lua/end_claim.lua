-- Ends a claim: keeps the answer, says why there is none to keep, or makes room for another execution. Sending it again is safe.
--
-- KEYS[1]  hash of the claim
-- ARGV[1]  owner
-- ARGV[2]  fingerprint of the request
-- ARGV[3]  kept, lost, or free
-- ARGV[4]  how long that is remembered, ms
-- ARGV[5]  head of the answer, or why it is lost
-- ARGV[6]  body of the answer
-- Returns  1; 0 if the claim is another owner's by now

local owner = redis.call('HGET', KEYS[1], 'owner')
if owner and owner ~= ARGV[1] then return 0 end
if ARGV[3] == 'free' then
  if redis.call('HGET', KEYS[1], 'state') == 'running' then redis.call('DEL', KEYS[1]) end
  return 1
end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'owner', ARGV[1], 'print', ARGV[2], 'head', ARGV[5], 'body', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
