-- Books, reservations, their expiries and all leases of a domain, consistent at one moment. For audits; its cost grows with what is in flight.
--
-- KEYS[1]  the domain
-- Returns  {now ms, {field, count, ...}, {member of the set of expiries, ...}, {lease, packed amounts, ...},
--          {what the account holds for leases in the five dimensions}, then for each model in any of them: its id,
--          {reservation, packed record, ...}, {what it holds for leases}}; what is not on record is false
--#include now

local HELD = { 'held:1', 'held:2', 'held:3', 'held:4', 'held:5' }
local books = redis.call('HGETALL', KEYS[1] .. ':books')
local flight = redis.call('ZRANGE', KEYS[1] .. ':flight', 0, -1)
local leases = redis.call('HGETALL', KEYS[1] .. ':lease')
local reply = { now_ms(), books, flight, leases, redis.call('HMGET', KEYS[1] .. ':win:a', unpack(HELD)) }

local seen = {}
local function add_model(model)
  if seen[model] then return end
  seen[model] = true
  reply[#reply + 1] = model
  reply[#reply + 1] = redis.call('HGETALL', KEYS[1] .. ':res:' .. model)
  reply[#reply + 1] = redis.call('HMGET', KEYS[1] .. ':win:m:' .. model, unpack(HELD))
end

for i = 1, #books, 2 do add_model(books[i]:match('^[^\t]*')) end
for _, member in ipairs(flight) do add_model(member:match('^[^\t]*')) end
for i = 1, #leases, 2 do add_model(leases[i]:match('\t(.*)$')) end
return reply
