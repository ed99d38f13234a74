-- Books (counts since the beginning) and statistics (sums of one minute), gathered over a batch and written once.

-- Statistics of a model within a pool are one list of numbers, packed in one field; their places in it. Behind the first eleven stand the counts
-- of latencies, one for each bucket. A list that another release has begun may be shorter or longer.
local STAT = { attempts = 1, ok = 2, failed = 3, neutral = 4, abandoned = 5, estimated = 6, tokens_in = 7, tokens_out = 8, cost = 9,
  latency_ms = 10, first_token_ms = 11, limited = 25 }
local STAT_LATENCIES = 11

-- `minute`: the last one on record, if the script has read it.
local function new_tally(minute) return { books = {}, stats = {}, minute = minute } end

local function in_pools(ledger, model, pool, make)
  local pools = ledger[model]
  if not pools then
    pools = {}
    ledger[model] = pools
  end
  if not pools[pool] then pools[pool] = make() end
  return pools[pool]
end

local function new_counters() return {} end

local function new_stats() return { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } end

-- The counters of a model within a pool: of the books by name, of the statistics by place.
local function books_of(tally, model, pool) return in_pools(tally.books, model, pool, new_counters) end
local function stats_of(tally, model, pool) return in_pools(tally.stats, model, pool, new_stats) end

local function count(counters, name, amount)
  counters[name] = (counters[name] or 0) + amount
end

local function save_books(books)
  for model, pools in pairs(books) do
    for pool, counters in pairs(pools) do
      local prefix = model .. '\t' .. pool .. '\t'
      for name, amount in pairs(counters) do
        if amount ~= 0 then redis.call('HINCRBY', KEYS[1] .. ':books', prefix .. name, int(amount)) end
      end
    end
  end
end

local save_tally
do
  -- The minute only moves forward, so that a minute which was flushed and deleted can never come back with a part of its numbers.
  local function current_minute(tally, now)
    local minute, last = math.floor(now / 60000), tally.minute or tonumber(redis.call('HGET', KEYS[1], 'minute') or 0)
    if minute <= last then return last end
    redis.call('HSET', KEYS[1], 'minute', int(minute))
    return minute
  end

  -- Adds to what the minute holds. Its first numbers enter it into the list of minutes.
  local function save_stats(all, minute)
    local key = KEYS[1] .. ':stat:' .. int(minute)
    for model, pools in pairs(all) do
      for pool, stats in pairs(pools) do
        local field = model .. '\t' .. pool
        local before = redis.call('HGET', key, field)
        if before then
          before = cmsgpack.unpack(before)
          for place = 1, #before do stats[place] = (stats[place] or 0) + before[place] end
        else
          redis.call('ZADD', KEYS[1] .. ':minutes', int(minute), int(minute))
        end
        redis.call('HSET', key, field, cmsgpack.pack(stats))
      end
    end
  end

  function save_tally(tally, now)
    save_books(tally.books)
    if next(tally.stats) ~= nil then save_stats(tally.stats, current_minute(tally, now)) end
  end
end

-- A reservation is known by its model, a tab and its id. Its record lies in the hash of its model, its expiry in one sorted set.
local RECORD, RECORD_SIZE = '>I8I4I4I8', 24

local function member_of(model, reservation) return model .. '\t' .. reservation end

-- What stands behind the numbers of a record. A hash with a value of more than 64 bytes is a table from its first write on.
local function record_tail(pool, provider)
  local tail = pool .. '\t' .. provider .. '\t'
  return tail .. string.rep('.', 65 - RECORD_SIZE - #tail)
end

local function write_record(admitted, tokens_in, tokens_out, cost, tail)
  return struct.pack(RECORD, admitted, tokens_in, tokens_out, cost) .. tail
end

-- The pool and the provider.
local function read_tail(tail) return tail:match('^([^\t]*)\t([^\t]*)\t') end

local function read_record(model, packed)
  local admitted, tokens_in, tokens_out, cost = struct.unpack(RECORD, packed)
  local pool, provider = read_tail(packed:sub(RECORD_SIZE + 1))
  return { model = model, admitted = admitted, tokens_in = tokens_in, tokens_out = tokens_out, cost = cost, pool = pool, provider = provider }
end

local close_reservations
do
  -- A reservation that a batch names twice is closed once.
  local function drop_repeated(reservations, packed)
    local seen = {}
    for i, reservation in ipairs(reservations) do
      packed[i] = not seen[reservation] and packed[i]
      seen[reservation] = true
    end
  end

  -- Takes reservations of one model out of what is in flight. Returns the packed record of each, or false where it was settled or
  -- abandoned before.
  function close_reservations(model, reservations)
    local key = KEYS[1] .. ':res:' .. model
    local packed = redis.call('HMGET', key, unpack(reservations))
    local closed, members, n, prefix = {}, {}, 0, member_of(model, '')
    for i = 1, #reservations do
      if packed[i] then
        n = n + 1
        closed[n], members[n] = reservations[i], prefix .. reservations[i]
      end
    end
    if n > 0 then
      if redis.call('HDEL', key, unpack(closed)) < n then drop_repeated(reservations, packed) end
      redis.call('ZREM', KEYS[1] .. ':flight', unpack(members))
    end
    return packed
  end
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
    for i, packed in ipairs(close_reservations(model, reservations)) do
      if packed then
        local r = read_record(model, packed)
        r.member = member_of(model, reservations[i])
        abandoned[#abandoned + 1] = r
        count(books_of(tally, model, r.pool), 'abandoned', 1)
        local stats = stats_of(tally, model, r.pool)
        count(stats, STAT.abandoned, 1)
        count(stats, STAT.tokens_in, r.tokens_in)
        count(stats, STAT.tokens_out, r.tokens_out)
        count(stats, STAT.cost, r.cost)
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
