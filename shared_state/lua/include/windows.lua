-- Windows of one scope (a model or an account), held in one hash.
--
-- A window is described by {algorithm, name, dimension, limit, a, b, c, alert}:
--   1 sliding      a = length ms, b = bucket ms, c = guard ms  fields name:sum, name:old, name:<bucket>
--   2 calendar     a <= now < b is the period, b..c the next   fields name:at, name:sum, name:carry:<end of the period>
--   3 spacing      a = least distance ms                       field  name:at
--   4 concurrency  counted from the set of reservations        no field
--   5 bucket       a = ms in which a full bucket drains        fields name:at, name:sum (its level)
--   6 cap          what a single request may take at most      no field
-- alert: the sum that is told once a period, 0 for none. A calendar window with -1 or -2 is a cap: once it is full its model rests, until
-- the period ends or (-2) an operator brings it back; the window's name is the reason.
-- Dimensions: 1 requests, 2 tokens, 3 tokens in, 4 tokens out, 5 cost. A limit of 0 only counts.
--
-- What nodes hold as pre-paid leases counts against every window, but belongs to no bucket: fields held:<dimension>.
--
-- Up to 512 short fields Redis keeps a hash as a list and finds each field by scanning it. The field `wide` is longer than such
-- a list may hold, so that a hash of hundreds of buckets is a table from its first write on.
--
-- A sliding window is exact in the caller's favour: a bucket leaves only when all of it is older than the
-- window, so no true interval of that length ever holds more than the limit. The guard covers the way
-- from here to the provider. A bucket that drains is smooth and needs two fields, but an interval that begins with
-- an empty one may hold up to twice the limit. What is admitted in the last moments of a calendar period may reach the provider in the next one,
-- so it is carried over and counts in both. All windows are read once a batch and written once a batch.

local WIDE = '.................................................................'
local CARRY_MS = 250
local HELD = { 'held:1', 'held:2', 'held:3', 'held:4', 'held:5' }
local SLIDING, CALENDAR, SPACING, CONCURRENCY, BUCKET, CAP = 1, 2, 3, 4, 5, 6

local load_scope
do
  -- What is read here is written by save_scope: a script that gives up half-way has changed nothing.
  local function expire_buckets(key, w, now)
    if w.old == nil or w.sum == 0 then
      w.old = w.current -- it holds nothing: what was admitted before was never counted here and cannot be given back
      return
    end
    if w.old > w.current then w.current = w.old end -- a clock that stepped back must not fill buckets that nobody will ever empty
    if (w.old + 1) * w.b > now - w.a - w.c then return end
    local first, span = math.floor((now - w.a - w.c) / w.b), math.ceil((w.a + w.c) / w.b) + 1
    local names = {}
    for i = w.old, math.min(first - 1, w.old + span) do names[#names + 1] = w.name .. ':' .. int(i) end
    local gone = redis.call('HMGET', key, unpack(names))
    for _, amount in ipairs(gone) do
      if amount then w.sum = w.sum - tonumber(amount) end
    end
    w.old, w.gone, w.dirty = first, names, true
  end

  -- Chooses the period that holds `now`. A period that is older than the one on record is never opened again.
  local function open_period(scope, w, now)
    if now < w.a or now >= w.c then
      scope.stale = true
      return
    end
    w.ends = w.b
    if now >= w.b then w.a, w.ends = w.b, w.c end
    if not w.mark or w.mark < w.a then
      local carry = w.name .. ':carry:' .. int(w.a)
      w.sum = w.mark and tonumber(redis.call('HGET', scope.key, carry) or 0) or 0
      w.mark, w.gone, w.dirty, scope.must_keep = w.a, { carry }, true, true
    end
    scope.keep_ms = math.max(scope.keep_ms, w.c - now)
  end

  -- Lets a bucket drain for the time since it was last touched; a clock that stepped back drains nothing.
  local function drain(w, now)
    if w.mark and now > w.mark then w.sum = math.max(0, w.sum - (now - w.mark) * w.limit / w.a) end
    w.mark = math.max(now, w.mark or now)
  end

  -- The names of the fields of a window stay with its description, which may be kept for another call.
  local function name_fields(s)
    s.sum, s.mark, s.bucket = s[2] .. ':sum', s[2] .. (s[1] == SLIDING and ':old' or ':at'), s[2] .. ':'
  end

  local function name_buckets(s, latest)
    s.latest, s.latest_name, s.before_name = latest, s.bucket .. int(latest), s.bucket .. int(latest - 1)
  end

  local function new_window(s)
    local w = { alg = s[1], name = s[2], dim = s[3], limit = s[4], b = s[6], c = s[7], alert = s[8], spec = s, sum = 0,
      has_fields = s[1] ~= CONCURRENCY and s[1] ~= CAP, keep_ms = s[5] + s[6] + s[7] }
    if w.has_fields then name_fields(s) end
    s.window = w
    return w
  end

  -- A window out of its description. It stays with it, for descriptions may be kept for another call; whatever is of one call is set here.
  -- The fields that it needs are appended to those that are read, of which there are `at`. Of a sliding window these are also its two latest
  -- buckets: nearly all that happens happens there. Returns the window, and how many fields there are now.
  local function describe(s, fields, at, now)
    local w = s.window or new_window(s)
    w.a, w.dirty, w.gone, w.carry, w.buckets, w.memo_amount = s[5], nil, nil, nil, nil, nil
    if not w.has_fields then return w, at end
    w.at, fields[at + 1], fields[at + 2] = at + 1, s.sum, s.mark
    if w.alg ~= SLIDING then return w, at + 2 end
    w.current = math.floor(now / w.b)
    w.fresh, w.add = 0, nil
    if s.latest ~= w.current then name_buckets(s, w.current) end
    fields[at + 3], fields[at + 4] = s.latest_name, s.before_name
    return w, at + 4
  end

  -- Takes what was read into a window.
  local function fill(scope, w, values, now)
    local at, alg = w.at, w.alg
    local sum, mark, latest, before = values[at], values[at + 1], values[at + 2], values[at + 3]
    mark = mark and tonumber(mark) or nil
    w.sum, w.mark, w.recorded = sum and tonumber(sum) or 0, mark, mark
    if alg == SLIDING then
      w.old, w.latest, w.before = mark, latest and tonumber(latest) or 0, before and tonumber(before) or 0
      expire_buckets(scope.key, w, now)
      if w.keep_ms > scope.keep_ms then scope.keep_ms = w.keep_ms end
    elseif alg == CALENDAR then
      open_period(scope, w, now)
    else
      if alg == BUCKET then
        drain(w, now)
        scope.has_levels = true
      end
      scope.keep_ms, scope.must_keep = math.max(scope.keep_ms, w.a), true
    end
  end

  local FIRST_FIELDS = 6

  -- The windows of descriptions, in a list that stays with them, and how many fields are read then.
  local function describe_all(specs, fields, at, now)
    specs.windows = specs.windows or {}
    for i = 1, #specs do specs.windows[i], at = describe(specs[i], fields, at, now) end
    return specs.windows, at
  end

  local NO_WINDOWS = {}

  -- Reads all windows of a scope. A description belongs to one scope.
  --
  -- in_flight  a function: it is asked only if the scope limits concurrency
  -- counters   descriptions of sliding windows that count without a limit, on their own: neither `take` nor `true_up` touches them
  function load_scope(key, specs, now, in_flight, counters)
    local scope = { key = key, windows = NO_WINDOWS, counters = NO_WINDOWS, keep_ms = 1000, held = { 0, 0, 0, 0, 0 }, is_wide = false,
      must_keep = false, has_levels = false }
    if #specs == 0 and not counters then return scope end
    local fields, count = specs.fields or { HELD[1], HELD[2], HELD[3], HELD[4], HELD[5], 'wide' }, FIRST_FIELDS
    specs.fields = fields
    scope.windows, count = describe_all(specs, fields, count, now)
    if counters then scope.counters, count = describe_all(counters, fields, count, now) end
    local values, held = redis.call('HMGET', key, unpack(fields, 1, count)), scope.held
    for dimension = 1, 5 do
      if values[dimension] then held[dimension] = tonumber(values[dimension]) end
    end
    scope.is_wide = values[6]
    for _, w in ipairs(scope.windows) do
      if w.has_fields then
        fill(scope, w, values, now)
      else
        w.sum = w.alg == CONCURRENCY and in_flight() or 0
      end
    end
    for _, w in ipairs(scope.counters) do fill(scope, w, values, now) end
    return scope
  end
end

-- What this call adds to a bucket: to the current one `fresh`, which is all that most calls add, to others by their index in `add`.
local function added_to(w, index)
  return (index == w.current and w.fresh or 0) + (w.add and w.add[index] or 0)
end

-- When `amount` could fit into a sliding window: the time at which enough of its oldest buckets has left.
local function sliding_room_at(scope, w, amount, now)
  if w.memo_amount == amount and w.memo_sum == w.sum then return w.memo_at end
  local last = w.current
  if not w.buckets then
    local names = {}
    for i = w.old, last do names[#names + 1] = w.name .. ':' .. int(i) end
    w.buckets = redis.call('HMGET', scope.key, unpack(names))
  end
  local excess, at = w.sum + scope.held[w.dim] + amount - w.limit, now + 1000
  for i = w.old, last do
    excess = excess - (tonumber(w.buckets[i - w.old + 1] or 0) or 0) - added_to(w, i)
    if excess <= 0 then
      at = (i + 1) * w.b + w.a + w.c
      break
    end
  end
  w.memo_amount, w.memo_sum, w.memo_at = amount, w.sum, at
  return at
end

-- nil if the window has room, else the time (ms) at which it could have; -1 never, 0 unknown but soon.
local function no_room_until(scope, w, amount, now)
  if w.limit == 0 then return nil end
  if w.alg == SPACING then
    if w.mark and now < w.mark + w.a then return w.mark + w.a end
    return nil
  end
  if w.alg == CAP then return amount > w.limit and -1 or nil end
  local taken = w.sum + scope.held[w.dim]
  if taken + amount <= w.limit then return nil end
  if amount > w.limit then return -1 end
  if w.alg == SLIDING then return sliding_room_at(scope, w, amount, now) end
  if w.alg == CALENDAR then return w.ends end
  if w.alg == BUCKET then return now + math.ceil((taken + amount - w.limit) * w.a / w.limit) end
  return 0
end

-- The window of a scope that refuses these amounts for longest: name, time. nil if all have room.
local function refusal(scope, amounts, now)
  local name, at
  for _, w in ipairs(scope.windows) do
    local until_ms = no_room_until(scope, w, amounts[w.dim], now)
    if until_ms and (not at or until_ms == -1 or (at ~= -1 and until_ms > at)) then name, at = w.name, until_ms end
  end
  return name, at
end

local function bucket_add(w, index, amount)
  if index < w.old then index = w.old end
  w.sum, w.dirty = w.sum + amount, true
  if index == w.current then
    w.fresh = w.fresh + amount
  else
    w.add = w.add or {}
    w.add[index] = (w.add[index] or 0) + amount
  end
end

local function take(scope, amounts, now)
  for _, w in ipairs(scope.windows) do
    local amount = amounts[w.dim]
    if w.alg == SLIDING then
      w.fresh, w.sum, w.dirty = w.fresh + amount, w.sum + amount, true
    elseif w.alg == CAP then
      -- it counts nothing
    elseif w.alg == SPACING then
      w.mark, w.dirty = now, true
    elseif w.alg == CALENDAR then
      w.sum, w.dirty = w.sum + amount, true
      if now >= w.ends - CARRY_MS then w.carry = (w.carry or 0) + amount end
    else
      w.sum, w.dirty = w.sum + amount, true
    end
  end
end

-- What is charged together was admitted, and is charged, within the same stretch of this length: no bucket and no moment that is judged by
-- (CARRY_MS before the turn of a period) falls inside of one.
local QUANTUM_MS = 250

-- A sum never falls below nothing: what comes back is taken off before what comes on top.
local function change_sum(w, was, is, over)
  if is == was and over == 0 then return end
  w.sum, w.dirty = math.max(0, w.sum + is - was - over) + over, true
end

local function true_up_sliding(w, was, is, over, admitted, charged_at)
  local from, to = math.floor(admitted / w.b), math.floor(charged_at / w.b)
  if from < w.old then
    if over > 0 then bucket_add(w, w.current, over) end
  elseif from == to then
    if is ~= was then bucket_add(w, from, is - was) end
  else
    bucket_add(w, from, -was)
    bucket_add(w, to, is)
  end
end

-- Replaces what was reserved at `admitted` by what was used. What was reserved in a period that has passed stays there;
-- use beyond the reservation is charged where it still counts. All three are sums over `was[1]` reservations; over: of what each
-- used beyond its own. Buckets that drain have no time: see true_up_levels.
local function true_up(scope, was, is, over, admitted, charged_at)
  for _, w in ipairs(scope.windows) do
    local d = w.dim
    if w.alg == SLIDING then
      true_up_sliding(w, was[d], is[d], over[d], admitted, charged_at)
    elseif w.alg == CONCURRENCY then
      w.sum = w.sum - was[1]
    elseif w.alg == CALENDAR then
      if admitted >= w.a - CARRY_MS then
        change_sum(w, was[d], is[d], over[d])
      elseif charged_at >= w.a then
        change_sum(w, 0, is[d], is[d]) -- it was held up until after the turn
      else
        change_sum(w, 0, over[d], over[d])
      end
    end
  end
end

-- The same for buckets that drain, over all that comes at once: in which order it came must not lower a level.
local function true_up_levels(scope, was, is, over)
  for _, w in ipairs(scope.windows) do
    if w.alg == BUCKET then change_sum(w, was[w.dim], is[w.dim], over[w.dim]) end
  end
end

-- Leaves at most `remaining` of a window free, what is held in leases included: it may be spent as well. False if the scope has
-- no such window.
local function tighten(scope, name, remaining)
  for _, w in ipairs(scope.windows) do
    if w.name == name and w.limit > 0 then
      local excess = w.limit - w.sum - remaining
      if excess > 0 then
        if w.alg == SLIDING then
          bucket_add(w, w.current, excess)
        else
          w.sum, w.dirty = w.sum + excess, true
        end
      end
      return true
    end
  end
  return false
end

-- Moves what leases hold in a scope; sign is 1 or -1.
local function hold(scope, amounts, sign)
  if #scope.windows == 0 then return end
  for dimension = 1, 5 do
    if amounts[dimension] ~= 0 then
      scope.held[dimension] = math.max(0, scope.held[dimension] + sign * amounts[dimension])
      scope.is_held_dirty = true
    end
  end
end

local save_scope
do
  -- Name of a bucket, and what it held when the window was read; nil if that was not asked.
  local function find_bucket(w, index)
    local s = w.spec
    if index == s.latest then return s.latest_name, w.latest end
    if index == s.latest - 1 then return s.before_name, w.before end
    return s.bucket .. int(index), nil
  end

  local function save_bucket(scope, w, index, amount, fields, gone)
    if amount == 0 then return end
    local bucket, before = find_bucket(w, index)
    local held = before and before + amount or redis.call('HINCRBY', scope.key, bucket, int(amount))
    if held == 0 then
      gone[#gone + 1] = bucket -- an empty window forgets where its buckets were
    elseif before then
      fields[#fields + 1], fields[#fields + 2] = bucket, int(held)
    end
    if held == amount then scope.must_keep = true end
  end

  -- Of one window: what is to be set goes to `fields`, what is to be removed to `gone`. Its mark seldom moves.
  local function save_window(scope, w, fields, gone)
    local n, mark = #fields, w.alg == SLIDING and w.old or w.mark or 0
    fields[n + 1], fields[n + 2] = w.spec.sum, w.alg == BUCKET and string.format('%.6f', w.sum) or int(w.sum)
    if mark ~= w.recorded then fields[n + 3], fields[n + 4] = w.spec.mark, int(mark) end
    if w.gone then
      for _, name in ipairs(w.gone) do gone[#gone + 1] = name end
    end
    if w.carry then redis.call('HINCRBY', scope.key, w.name .. ':carry:' .. int(w.ends), int(w.carry)) end
    if w.alg == SLIDING then save_bucket(scope, w, w.current, w.fresh, fields, gone) end
    if w.add then
      for index, amount in pairs(w.add) do save_bucket(scope, w, index, amount, fields, gone) end
    end
  end

  -- The key lives two minutes longer than it has to, so its life is prolonged only with a new bucket or period.
  local function prolong(scope)
    local keep_ms = int(scope.keep_ms + 120000)
    if redis.call('PEXPIRE', scope.key, keep_ms, 'GT') == 0 and redis.call('PTTL', scope.key) < 0 then
      redis.call('PEXPIRE', scope.key, keep_ms)
    end
  end

  -- Writes what has changed.
  function save_scope(scope)
    local fields, gone = {}, {}
    if scope.is_held_dirty then
      for dimension = 1, 5 do
        fields[2 * dimension - 1], fields[2 * dimension] = HELD[dimension], int(scope.held[dimension])
      end
    end
    for _, w in ipairs(scope.windows) do
      if w.dirty and w.has_fields then save_window(scope, w, fields, gone) end
    end
    for _, w in ipairs(scope.counters) do
      if w.dirty then save_window(scope, w, fields, gone) end
    end
    if #gone > 0 then redis.call('HDEL', scope.key, unpack(gone)) end
    if #fields == 0 then return end
    if not scope.is_wide then fields[#fields + 1], fields[#fields + 2] = 'wide', WIDE end
    redis.call('HSET', scope.key, unpack(fields))
    if scope.must_keep or scope.is_held_dirty or not scope.is_wide then prolong(scope) end
  end
end
