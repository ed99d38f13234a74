-- The state of a whole quota domain, consistent at one moment.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {{'model' or 'provider', id}, ...}
-- Returns  {now ms, epoch, {field, value, ...} for each entity}
--#include now

local reply = { now_ms(), tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0) }
for _, entity in ipairs(cmsgpack.unpack(ARGV[1])) do
  reply[#reply + 1] = redis.call('HGETALL', KEYS[1] .. ':' .. entity[1] .. ':' .. entity[2])
end
return reply
