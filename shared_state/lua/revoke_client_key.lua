-- Revokes a client key for good. Idempotent: the first time stays.
--
-- KEYS[1]  the client keys
-- ARGV[1]  id
-- ARGV[2]  channel
-- ARGV[3]  node that took the order
-- Returns  when it was revoked, ms; 0 if there is no such key
-- Publishes key_revoked
--#include now
--#include client_keys

if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
local now = now_ms()
if redis.call('HSETNX', KEYS[1] .. ':revoked', ARGV[1], int(now)) == 1 then
  announce('key_revoked', ARGV[1], ARGV[2], ARGV[3], now)
end
return tonumber(redis.call('HGET', KEYS[1] .. ':revoked', ARGV[1]))
