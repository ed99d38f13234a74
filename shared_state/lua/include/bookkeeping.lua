-- Books (counts since the beginning) and statistics (sums of one minute), gathered over a batch and written once.

local function new_tally() return { books = {}, stats = {} } end

local function count(tally, kind, model, pool, name, amount)
  local field = model .. '\t' .. pool .. '\t' .. name
  tally[kind][field] = (tally[kind][field] or 0) + amount
end

-- The minute only moves forward, so that a minute which was flushed and deleted can never come back with a part of its numbers.
local function current_minute(now)
  local minute = math.floor(now / 60000)
  local last = tonumber(redis.call('HGET', KEYS[1], 'minute') or 0)
  if minute > last then
    redis.call('HSET', KEYS[1], 'minute', int(minute))
    redis.call('ZADD', KEYS[1] .. ':minutes', int(minute), int(minute))
    return minute
  end
  return last
end

local function save_tally(tally, now)
  for field, amount in pairs(tally.books) do redis.call('HINCRBY', KEYS[1] .. ':books', field, int(amount)) end
  if next(tally.stats) == nil then return end
  local key = KEYS[1] .. ':stat:' .. int(current_minute(now))
  for field, amount in pairs(tally.stats) do
    if amount ~= 0 then redis.call('HINCRBY', key, field, int(amount)) end
  end
end

-- Forgets a reservation and returns its record, or nil if it was settled or abandoned before.
local function close_reservation(reservation)
  local packed = redis.call('HGET', KEYS[1] .. ':res', reservation)
  if not packed then return nil end
  local r = cmsgpack.unpack(packed)
  redis.call('HDEL', KEYS[1] .. ':res', reservation)
  redis.call('ZREM', KEYS[1] .. ':flight', reservation)
  redis.call('ZREM', KEYS[1] .. ':flight:' .. r[1], reservation)
  return { model = r[1], pool = r[2], admitted = r[3], tokens_in = r[4], tokens_out = r[5], cost = r[6] }
end

-- A reservation whose node died or whose lease ran out: booked as abandoned and charged in full, for nobody knows what it used.
local function abandon(reservation, tally)
  local r = close_reservation(reservation)
  if not r then return false end
  count(tally, 'books', r.model, r.pool, 'abandoned', 1)
  count(tally, 'stats', r.model, r.pool, 'abandoned', 1)
  count(tally, 'stats', r.model, r.pool, 'tokens_in', r.tokens_in)
  count(tally, 'stats', r.model, r.pool, 'tokens_out', r.tokens_out)
  count(tally, 'stats', r.model, r.pool, 'cost', r.cost)
  return true
end
