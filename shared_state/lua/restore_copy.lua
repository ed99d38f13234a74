-- Puts back what a server has lost, from a copy. What is there already was counted since: amounts are added to it, for to count twice is
-- safe and to forget is not. Idempotent by the time of the copy; changes nothing if nothing of the copy is missing.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- ARGV[3]  msgpack of the copy:
--          taken, base      its time; the time of the copy before, if this holds only what was counted since then, else 0
--          whole            books field -> count when it was taken
--          epoch, minute    of the domain; epochs and books only ever grow, so one that is smaller tells of a loss
--          scopes           model, or empty for the account -> window -> {sum, at, alerted, {bucket, amount, ...}}
--          states           {{kind, id, {field -> value}}, ...}
--          books            field -> count
--          reservations     {{model, id, admitted ms, tokens in, tokens out, cost, pool, provider, expiry ms}, ...}
--          closed           {{model, id, pool}, ...} that ended between the copy before and this one
--          leases           {{node TAB model, sequence, five amounts, end ms}, ...}
--          done, seq        field -> value
-- Returns  {1, age of the copy ms, reservations, admissions}; {0}: nothing is missing, or it was restored before; {-1}: the token is out of
--          date; {-2, now ms}: the calendar in ARGV[2] is
-- Publishes state_restored
--#include now
--#include fence
--#include windows
--#include entities
--#include bookkeeping
--#include leases

if fenced_off(tonumber(ARGV[1])) then return { -1 } end
local limits, copy, now = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3]), now_ms()
local DONE_KEPT_MS = 3600000

local marks = redis.call('HMGET', KEYS[1], 'copied', 'epoch', 'minute')
local copied, epoch, minute = tonumber(marks[1] or 0), tonumber(marks[2] or 0), tonumber(marks[3] or 0)

local function is_missing()
  if epoch < copy.epoch then return true end
  for field, number in pairs(copy.whole) do
    if tonumber(redis.call('HGET', KEYS[1] .. ':books', field) or 0) < number then return true end
  end
  return false
end

if copy.base > 0 and copied ~= copy.base then return { 0 } end
if copied >= copy.taken or not is_missing() then
  redis.call('HDEL', KEYS[1], 'wants_copy')
  return { 0 }
end

-- The windows of the configuration, and the counters of the error rate, whose names tell their length.
local function specs_of(scope, windows)
  for name in pairs(copy.scopes[scope] or {}) do
    local length = tonumber(name:match('^ok(%d+)$') or name:match('^bad(%d+)$'))
    if length then windows[#windows + 1] = { SLIDING, name, 1, 0, length, math.max(1, math.floor(length / 12)), 0, 0 } end
  end
  return windows
end

local account = load_scope(KEYS[1] .. ':win:a', specs_of('', limits[3]), now, account_in_flight)
local scopes, is_stale = { [''] = account }, account.stale
for _, m in ipairs(limits[4]) do
  scopes[m[1]] = load_scope(KEYS[1] .. ':win:m:' .. m[1], specs_of(m[1], m[3]), now, model_in_flight(m[1]))
  is_stale = is_stale or scopes[m[1]].stale
end
if is_stale then return { -2, now } end

-- Buckets keep their own time, and leave with it.
local function merge_buckets(w, buckets)
  local first = math.floor((now - w.a - w.c) / w.b)
  for i = 1, #buckets, 2 do
    local index, amount = buckets[i], buckets[i + 1]
    if index >= first and amount ~= 0 then
      w.old = math.min(w.old, index)
      bucket_add(w, index, amount)
    end
  end
end

local function merge_window(w, sum, at, buckets)
  if w.alg == SLIDING then
    merge_buckets(w, buckets)
  elseif w.alg == SPACING then
    w.mark, w.dirty = math.max(w.mark or 0, at), true
  elseif w.alg == BUCKET then
    w.sum, w.dirty = w.sum + math.max(0, sum - math.max(0, now - at) * w.limit / w.a), true
  elseif w.alg == CALENDAR and at >= w.mark then -- else its period has passed
    w.sum, w.mark, w.dirty = w.sum + sum, at, true
  end
end

local function merge_scope(name, scope)
  local windows = copy.scopes[name] or {}
  for _, w in ipairs(scope.windows) do
    local seen = windows[w.name]
    if seen then
      merge_window(w, seen[1], seen[2], seen[4])
      if seen[3] > 0 then redis.call('HSETNX', scope.key, w.name .. ':alerted', int(seen[3])) end
    end
  end
end

-- A lease that its node has again meanwhile: of the one in the copy nobody knows what was used, so all of it was.
local function merge_lease(lease)
  local name, amounts = lease[1], { lease[3], lease[4], lease[5], lease[6], lease[7] }
  local held = { account, scopes[name:match('\t(.*)$')] }
  local is_new = read_lease(name) == nil
  for _, scope in pairs(held) do
    if is_new then hold(scope, amounts, 1) else take(scope, amounts, now) end
  end
  if is_new then
    write_lease(name, lease[2], amounts)
    redis.call('ZADD', KEYS[1] .. ':lease:ends', int(lease[8]), name)
  end
end

local tally = new_tally()

local function merge_reservation(r)
  local record = write_record(r[3], r[4], r[5], r[6], record_tail(r[7], r[8]))
  if redis.call('HSETNX', KEYS[1] .. ':res:' .. r[1], r[2], record) == 1 then
    redis.call('ZADD', KEYS[1] .. ':flight', int(r[9]), member_of(r[1], r[2]))
    return 1
  end
  count(books_of(tally, r[1], r[7]), 'admitted', -1) -- its node has admitted it anew: once is enough
  return 0
end

local function merge_closed(c)
  if redis.call('HDEL', KEYS[1] .. ':res:' .. c[1], c[2]) == 1 then
    redis.call('ZREM', KEYS[1] .. ':flight', member_of(c[1], c[2]))
  else
    count(books_of(tally, c[1], c[3]), 'settled', -1) -- it was settled again meanwhile
  end
end

-- How long a state keeps its entity out.
local function end_of(status, mode, until_ms)
  if status ~= 'standby' then return -1 end
  return mode == 'manual' and until_ms == 0 and math.huge or until_ms
end

-- What the copy knows wins where it is later or lasts longer; it never shortens a standby, nor undoes what an operator ordered since.
local function merge_state(kind, id, fields)
  local live = load_entity(kind, id)
  local since = tonumber(redis.call('HGET', live.key, 'since') or 0)
  local theirs = end_of(fields.status, fields.mode, tonumber(fields['until'] or 0))
  if theirs <= end_of(live.status, live.mode, live['until']) and since > 0 then return end
  if live.status == 'active' and since > tonumber(fields.since or 0) then return end
  if live.status == 'standby' and live.mode == 'manual' and fields.mode ~= 'manual' then return end
  redis.call('DEL', live.key)
  for field, value in pairs(fields) do redis.call('HSET', live.key, field, value) end
  redis.call('ZREM', KEYS[1] .. ':due', due_name(live))
  if theirs >= 0 and theirs < math.huge then redis.call('ZADD', KEYS[1] .. ':due', int(theirs), due_name(live)) end
end

-- Of batches the later one, for what is in the copy need not be replayed; of the term that a node has asserted, and whether it has left,
-- the domain knows better.
local function merge_sequence(field, value)
  local key = KEYS[1] .. ':seq'
  local live = redis.call('HGET', key, field)
  if not live or (field:sub(-2) ~= '\tt' and tonumber(live) < tonumber(value)) then redis.call('HSET', key, field, value) end
end

for name, scope in pairs(scopes) do merge_scope(name, scope) end
for _, lease in ipairs(copy.leases) do merge_lease(lease) end
local reservations, admissions = 0, 0
for _, r in ipairs(copy.reservations) do reservations = reservations + merge_reservation(r) end
for _, c in ipairs(copy.closed) do merge_closed(c) end
for _, s in ipairs(copy.states) do merge_state(s[1], s[2], s[3]) end
for field, amount in pairs(copy.books) do
  redis.call('HINCRBY', KEYS[1] .. ':books', field, int(amount))
  if field:find('\tadmitted$') then admissions = admissions + amount end
end
save_books(tally.books)
for field, value in pairs(copy.done) do
  redis.call('HSETNX', KEYS[1] .. ':done', field, value)
  redis.call('PEXPIRE', KEYS[1] .. ':done', DONE_KEPT_MS)
end
for field, value in pairs(copy.seq) do merge_sequence(field, value) end
for _, scope in pairs(scopes) do save_scope(scope) end

epoch = math.max(epoch, copy.epoch) + 1
redis.call('HSET', KEYS[1], 'epoch', int(epoch), 'minute', int(math.max(minute, copy.minute)), 'copied', int(copy.taken),
  'copying', int(copy.taken))
redis.call('HDEL', KEYS[1], 'wants_copy')
home.domain, home.channel, home.node = limits[1], limits[2], 'scheduler'
local age = math.max(0, now - copy.taken)
tell('state_restored', 'domain', home.domain, string.format('a copy %.1f s old', age / 1000), 0, epoch, now,
  { age_ms = age, reservations = reservations, books = admissions })
return { 1, age, reservations, admissions }
