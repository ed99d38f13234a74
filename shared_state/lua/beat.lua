-- A node's heartbeat in the registry.
--
-- KEYS[1]  hash node -> description
-- KEYS[2]  sorted set node -> last heartbeat
-- ARGV[1]  node
-- ARGV[2]  description, JSON; empty: the node leaves
-- Returns  {now ms, number of nodes in the registry}
--#include now

local now = now_ms()
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], int(now), ARGV[1])
end
return { now, redis.call('ZCARD', KEYS[2]) }
