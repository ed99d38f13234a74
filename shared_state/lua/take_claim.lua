-- Claims an idempotency key, or tells what has become of it. Sending it again with the same owner is safe.
--
-- KEYS[1]  hash of the claim; dies with its owner's silence, or when the answer has been kept long enough
-- ARGV[1]  owner of this execution
-- ARGV[2]  fingerprint of the request
-- ARGV[3]  life of the claim without a sign of its owner, ms
-- Returns  {'mine'}; {'running'}; {'reused'} for another request; {'kept', head, body}; {'lost', why}

local state, owner, print, head, body =
  unpack(redis.call('HMGET', KEYS[1], 'state', 'owner', 'print', 'head', 'body'))
if not state or (state == 'running' and owner == ARGV[1]) then
  redis.call('HSET', KEYS[1], 'state', 'running', 'owner', ARGV[1], 'print', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return { 'mine' }
end
if print ~= ARGV[2] then return { 'reused' } end
if state == 'running' then return { 'running' } end
return { state, head or '', body or '' }
