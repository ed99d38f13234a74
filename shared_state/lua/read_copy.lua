-- Reads all that counts in a domain, consistent at one moment, for a copy that outlives the server. Its time grows with what is in
-- flight, so no more than so many reservations are taken: those that expire last.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler; 0: only a look, no copy is begun
-- ARGV[2]  msgpack {{'model' or 'provider', id}, ...}
-- ARGV[3]  most reservations, and most attempts out of leases
-- Returns  {time of the copy ms, {field, value, ...} of the domain, the same of the account's windows, of the books, of the leases, of
--          their ends, of the attempts booked out of leases, of the sequences, {member, expiry, ...} in flight, {packed record, or empty
--          where there is none, ...} of these, number of reservations and attempts left out, then for each entity: {field, value, ...} of
--          its state, the same of its windows}; {-1} if the token is out of date
--#include now
--#include fence

local token, most = tonumber(ARGV[1]), tonumber(ARGV[3])
if token > 0 and fenced_off(token) then return { -1 } end

-- Its time names a copy, so it is later than that of every copy before, whatever the clock does.
local function begin_copy()
  local marks = redis.call('HMGET', KEYS[1], 'copying', 'copied')
  local taken = math.max(now_ms(), tonumber(marks[1] or 0) + 1, tonumber(marks[2] or 0) + 1)
  redis.call('HSET', KEYS[1], 'copying', int(taken))
  return taken
end

local left_out = 0
local function bounded(key)
  local size = redis.call('HLEN', key)
  if size <= most then return redis.call('HGETALL', key) end
  left_out = left_out + size
  return {}
end

local AT_ONCE = 1000
local function records_of(flight)
  local by_model, packed = {}, {}
  for i = 1, #flight, 2 do
    local model, reservation = flight[i]:match('^([^\t]*)\t(.*)$')
    by_model[model] = by_model[model] or { names = {}, places = {} }
    table.insert(by_model[model].names, reservation)
    table.insert(by_model[model].places, (i + 1) / 2)
  end
  for model, wanted in pairs(by_model) do
    for first = 1, #wanted.names, AT_ONCE do
      local last = math.min(first + AT_ONCE - 1, #wanted.names)
      local found = redis.call('HMGET', KEYS[1] .. ':res:' .. model, unpack(wanted.names, first, last))
      for i, record in ipairs(found) do packed[wanted.places[first + i - 1]] = record or '' end
    end
  end
  return packed
end

local taken = token > 0 and begin_copy() or now_ms()
local flight = redis.call('ZREVRANGEBYSCORE', KEYS[1] .. ':flight', '+inf', '-inf', 'WITHSCORES', 'LIMIT', 0, most)
left_out = redis.call('ZCARD', KEYS[1] .. ':flight') - #flight / 2
local done = bounded(KEYS[1] .. ':done')
local reply = {
  taken,
  redis.call('HGETALL', KEYS[1]),
  redis.call('HGETALL', KEYS[1] .. ':win:a'),
  redis.call('HGETALL', KEYS[1] .. ':books'),
  redis.call('HGETALL', KEYS[1] .. ':lease'),
  redis.call('ZRANGEBYSCORE', KEYS[1] .. ':lease:ends', '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, most),
  done,
  redis.call('HGETALL', KEYS[1] .. ':seq'),
  flight,
  records_of(flight),
  left_out,
}
for _, entity in ipairs(cmsgpack.unpack(ARGV[2])) do
  reply[#reply + 1] = redis.call('HGETALL', KEYS[1] .. ':' .. entity[1] .. ':' .. entity[2])
  reply[#reply + 1] = entity[1] == 'model' and redis.call('HGETALL', KEYS[1] .. ':win:m:' .. entity[2]) or {}
end
return reply
