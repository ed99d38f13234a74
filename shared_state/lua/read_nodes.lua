-- The registry of nodes, consistent at one moment.
--
-- KEYS[1]  hash node -> description
-- KEYS[2]  sorted set node -> last heartbeat
-- Returns  {now ms, node, last heartbeat ms, description, ...}, the longest silent first
--#include now

local seen = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 10000)
local reply = { now_ms() }
for i = 1, #seen, 2 do
  local description = redis.call('HGET', KEYS[1], seen[i])
  if description then
    reply[#reply + 1] = seen[i]
    reply[#reply + 1] = tonumber(seen[i + 1])
    reply[#reply + 1] = description
  end
end
return reply
