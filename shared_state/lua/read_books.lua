-- Books, reservations and their expiries of a domain, consistent at one moment. For audits; its cost grows with what is in flight.
--
-- KEYS[1]  the domain
-- Returns  {now ms, {field, count, ...}, number in the set of expiries, then for each model in the books: its id, {packed record, ...}}
--#include now

local books = redis.call('HGETALL', KEYS[1] .. ':books')
local reply, seen = { now_ms(), books, redis.call('ZCARD', KEYS[1] .. ':flight') }, {}
for i = 1, #books, 2 do
  local model = books[i]:match('^[^\t]*')
  if not seen[model] then
    seen[model] = true
    reply[#reply + 1] = model
    reply[#reply + 1] = redis.call('HVALS', KEYS[1] .. ':res:' .. model)
  end
end
return reply
