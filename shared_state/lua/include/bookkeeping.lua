-- Books (counts since the beginning) and statistics (sums of one minute), gathered over a batch and written once.

local function new_tally() return { books = {}, stats = {} } end

-- The counters of a model within a pool; ledger is tally.books or tally.stats.
local function account_of(ledger, model, pool)
  local pools = ledger[model]
  if not pools then
    pools = {}
    ledger[model] = pools
  end
  local counters = pools[pool]
  if not counters then
    counters = {}
    pools[pool] = counters
  end
  return counters
end

local function count(counters, name, amount)
  counters[name] = (counters[name] or 0) + amount
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

local function save_ledger(ledger, key)
  for model, pools in pairs(ledger) do
    for pool, counters in pairs(pools) do
      local prefix = model .. '\t' .. pool .. '\t'
      for name, amount in pairs(counters) do
        if amount ~= 0 then redis.call('HINCRBY', key, prefix .. name, int(amount)) end
      end
    end
  end
end

local function save_tally(tally, now)
  save_ledger(tally.books, KEYS[1] .. ':books')
  if next(tally.stats) ~= nil then save_ledger(tally.stats, KEYS[1] .. ':stat:' .. int(current_minute(now))) end
end

-- Takes reservations out of the books of what is in flight. Returns a record for each, or false where it was settled or abandoned before.
local function close_reservations(reservations)
  if #reservations == 0 then return {} end
  local packed = redis.call('HMGET', KEYS[1] .. ':res', unpack(reservations))
  local records, closed, by_model = {}, {}, {}
  for i, reservation in ipairs(reservations) do
    records[i] = false
    if packed[i] and not closed[reservation] then
      local r = cmsgpack.unpack(packed[i])
      records[i] = { model = r[1], pool = r[2], admitted = r[3], tokens_in = r[4], tokens_out = r[5], cost = r[6] }
      closed[reservation] = true
      closed[#closed + 1] = reservation
      local group = by_model[r[1]] or {}
      by_model[r[1]] = group
      group[#group + 1] = reservation
    end
  end
  if #closed > 0 then
    redis.call('HDEL', KEYS[1] .. ':res', unpack(closed))
    redis.call('ZREM', KEYS[1] .. ':flight', unpack(closed))
    for model, group in pairs(by_model) do redis.call('ZREM', KEYS[1] .. ':flight:' .. model, unpack(group)) end
  end
  return records
end

-- Books reservations whose node died or whose lease ran out as abandoned, charged in full, for nobody knows what they used.
-- Returns how many there were.
local function abandon(reservations, tally)
  local abandoned = 0
  for _, r in ipairs(close_reservations(reservations)) do
    if r then
      abandoned = abandoned + 1
      count(account_of(tally.books, r.model, r.pool), 'abandoned', 1)
      local stats = account_of(tally.stats, r.model, r.pool)
      count(stats, 'abandoned', 1)
      count(stats, 'tokens_in', r.tokens_in)
      count(stats, 'tokens_out', r.tokens_out)
      count(stats, 'cost', r.cost)
    end
  end
  return abandoned
end
