-- Keeps a new client key. Idempotent: the same record may come twice.
--
-- KEYS[1]  the client keys
-- ARGV[1]  id
-- ARGV[2]  digest of the key's text
-- ARGV[3]  record, JSON
-- ARGV[4]  channel
-- ARGV[5]  node that took the order
-- Returns  now ms
-- Publishes key_created
--#include now
--#include client_keys

local now = now_ms()
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[1] .. ':digests', ARGV[2], ARGV[1])
announce('key_created', ARGV[1], ARGV[4], ARGV[5], now)
return now
