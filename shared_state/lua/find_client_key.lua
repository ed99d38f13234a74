-- The client key behind a digest.
--
-- KEYS[1]  the client keys
-- ARGV[1]  digest of the text that a caller has shown
-- Returns  {record, when it was revoked (ms) or 0}; empty for an unknown one

local id = redis.call('HGET', KEYS[1] .. ':digests', ARGV[1])
local record = id and redis.call('HGET', KEYS[1], id)
if not record then return {} end
return { record, tonumber(redis.call('HGET', KEYS[1] .. ':revoked', id) or 0) }
