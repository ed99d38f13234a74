-- The state of a whole quota domain, consistent at one moment.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {{'model' or 'provider', id}, ...}
-- Returns  {now ms, epoch, term, {field, value, ...} for each entity}; a term of -1: the server is new and its term is not open yet
--#include now
--#include run

local d = redis.call('HMGET', KEYS[1], 'epoch', 'term', 'run')
local reply = { now_ms(), tonumber(d[1] or 0), d[2] and d[3] ~= run_id() and -1 or tonumber(d[2] or 0) }
for _, entity in ipairs(cmsgpack.unpack(ARGV[1])) do
  reply[#reply + 1] = redis.call('HGETALL', KEYS[1] .. ':' .. entity[1] .. ':' .. entity[2])
end
return reply
