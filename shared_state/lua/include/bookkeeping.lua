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
  if minute > last then redis.call('HSET', KEYS[1], 'minute', int(minute)) end
  minute = math.max(minute, last)
  redis.call('ZADD', KEYS[1] .. ':minutes', int(minute), int(minute))
  return minute
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

-- A reservation is known by its model, a tab and its id. Its record lies in the hash of its model, its expiry in one sorted set.
local RECORD = '>I8I4I4I8'

local function member_of(model, reservation) return model .. '\t' .. reservation end

local function write_record(admitted, tokens_in, tokens_out, cost, pool, provider)
  local record = struct.pack(RECORD, admitted, tokens_in, tokens_out, cost) .. pool .. '\t' .. provider .. '\t'
  return #record > 64 and record or record .. string.rep('.', 65 - #record)
end

local function read_record(model, packed)
  local admitted, tokens_in, tokens_out, cost, rest = struct.unpack(RECORD, packed)
  local tab = packed:find('\t', rest, true)
  local ends = packed:find('\t', tab + 1, true)
  return { model = model, admitted = admitted, tokens_in = tokens_in, tokens_out = tokens_out, cost = cost,
    pool = packed:sub(rest, tab - 1), provider = packed:sub(tab + 1, ends - 1) }
end

-- Takes reservations of one model out of what is in flight. Returns a record for each, or false where it was settled or abandoned before.
local function close_reservations(model, reservations)
  local key = KEYS[1] .. ':res:' .. model
  local packed = redis.call('HMGET', key, unpack(reservations))
  local records, closed, members, seen = {}, {}, {}, {}
  for i, reservation in ipairs(reservations) do
    records[i] = false
    if packed[i] and not seen[reservation] then
      seen[reservation] = true
      records[i] = read_record(model, packed[i])
      closed[#closed + 1] = reservation
      members[#members + 1] = member_of(model, reservation)
    end
  end
  if #closed > 0 then
    redis.call('HDEL', key, unpack(closed))
    redis.call('ZREM', KEYS[1] .. ':flight', unpack(members))
  end
  return records
end

-- Books reservations whose node died or whose lease ran out as abandoned, charged in full, for nobody knows what they used.
-- Returns their records.
local function abandon(members, tally)
  local by_model, abandoned = {}, {}
  for _, member in ipairs(members) do
    local tab = member:find('\t', 1, true)
    local model = member:sub(1, tab - 1)
    by_model[model] = by_model[model] or {}
    table.insert(by_model[model], member:sub(tab + 1))
  end
  for model, reservations in pairs(by_model) do
    for i, r in ipairs(close_reservations(model, reservations)) do
      if r then
        r.member = member_of(model, reservations[i])
        abandoned[#abandoned + 1] = r
        count(account_of(tally.books, model, r.pool), 'abandoned', 1)
        local stats = account_of(tally.stats, model, r.pool)
        count(stats, 'abandoned', 1)
        count(stats, 'tokens_in', r.tokens_in)
        count(stats, 'tokens_out', r.tokens_out)
        count(stats, 'cost', r.cost)
      end
    end
  end
  return abandoned
end

-- How many calls are in flight: on the account, and on one model.
local function account_in_flight() return redis.call('ZCARD', KEYS[1] .. ':flight') end

local function model_in_flight(model)
  return function() return redis.call('HLEN', KEYS[1] .. ':res:' .. model) end
end
