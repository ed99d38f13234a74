-- A node reports what it spent of its leases and what it keeps, and has them filled up, by what it wants and what remains. Idempotent
-- by sequence: one that is not younger than the last is answered with what is held. A replay tells a server that may have forgotten: all that is
-- said to be used is charged, all that is kept is held, nothing is granted. A lease never falls below what the node says it keeps, so a lost reply leaves nothing in its hands that is not held here.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- ARGV[2]  msgpack {node, term, epoch, 1 if this is a replay, admit sequence up to which admissions are given up, sequence}
-- ARGV[3]  life of the leases, ms
-- ARGV[4]  share: a lease takes at most one part in this many of what remains
-- ARGV[5]  msgpack {{index of the model, {used: requests, tokens, in, out, cost}, {kept: the same}, requests wanted, {one request: the
--          same}, {spent on calls that still run: the same}}, ...}
-- Returns  {now ms, epoch, note, value, then for each model what its lease holds now: requests, tokens, in, out, cost}
--          epoch -1: the calendar is out of date; note 0 applied, 1 the sequence is not younger than the one on record (value),
--          2 nothing was done: the node has to assert itself in a new term
-- Publishes term_opened
--#include now
--#include windows
--#include entities
--#include run
--#include term
--#include bookkeeping
--#include leases

local limits, caller = cmsgpack.unpack(ARGV[1]), read_caller(ARGV[2], { 'l' })
local life, share, wishes = tonumber(ARGV[3]), tonumber(ARGV[4]), cmsgpack.unpack(ARGV[5])
home.domain, home.channel, home.node = limits[1], limits[2], caller.node
local now = now_ms()
local note, value = enter(caller, now)
if note == UNASSERTED then return { now, 0, note, value } end
local renewal = caller.parts[1]
note, value = renewal.note, renewal.value
local account = load_scope(KEYS[1] .. ':win:a', limits[3], now, account_in_flight)
local scopes = {}
for i, m in ipairs(limits[4]) do
  scopes[i] = load_scope(KEYS[1] .. ':win:m:' .. m[1], m[3], now, model_in_flight(m[1]))
  account.stale = account.stale or scopes[i].stale
end
if account.stale then return { now, -1, note, value } end

-- How many requests like `one` fit into a share of what remains in a scope.
local function fitting(scope, one, wanted)
  for _, w in ipairs(scope.windows) do
    if w.alg == SPACING then return 0 end -- a distance between calls cannot be paid in advance
    if w.limit > 0 and one[w.dim] > 0 then
      local room = w.alg == CAP and w.limit * wanted or math.floor((w.limit - w.sum - scope.held[w.dim]) / share)
      wanted = math.min(wanted, math.floor(room / one[w.dim]))
    end
  end
  return math.max(0, wanted)
end

local NOTHING = { 0, 0, 0, 0, 0 }

local function hold_both(scope, amounts, sign)
  hold(scope, amounts, sign)
  hold(account, amounts, sign)
end

-- What is held for calls that run: no more than what was held so far, unless it is said again to a server that may have forgotten. Nothing if
-- the lease has ended, for its end has charged all of it.
local function still_running(old, busy, running)
  if caller.is_replay then return running end
  if not old then return NOTHING end
  local amounts = {}
  for dimension = 1, 5 do amounts[dimension] = math.min(running[dimension], old[dimension] + busy[dimension]) end
  return amounts
end

local function renew(wish)
  local scope, used, kept, one = scopes[wish[1]], wish[2], wish[3], wish[5]
  local name = lease_name(caller.node, limits[4][wish[1]][1])
  local old, busy = read_lease(name), read_lease(busy_name(name)) or NOTHING
  if note == STALE then return old or NOTHING end
  local running = still_running(old, busy, wish[6])
  if old then
    hold_both(scope, old, -1)
    hold_both(scope, busy, -1)
  elseif not caller.is_replay then
    used, kept = NOTHING, NOTHING -- it has ended, and its end has charged all of it
  end
  if used[1] > 0 then
    take(scope, used, now)
    take(account, used, now)
  end
  hold_both(scope, running, 1)
  local granted = (caller.is_held or caller.is_replay) and 0 or fitting(account, one, fitting(scope, one, wish[4]))
  local amounts = {}
  for dimension = 1, 5 do
    local keeps = caller.is_replay and kept[dimension] or math.min(kept[dimension], old and old[dimension] or 0)
    amounts[dimension] = math.max(granted * one[dimension], keeps)
  end
  if amounts[1] == 0 and running[1] == 0 then
    if old then drop_lease(name) end
    return NOTHING
  end
  hold_both(scope, amounts, 1)
  write_lease(name, renewal.sequence, amounts)
  write_busy(name, running)
  redis.call('ZADD', KEYS[1] .. ':lease:ends', int(now + life), name)
  return amounts
end

local reply = { now, home.epoch, note, value }
if note == FINE then keep_sequences(caller) end
for _, wish in ipairs(wishes) do
  for _, amount in ipairs(renew(wish)) do reply[#reply + 1] = amount end
end
save_scope(account)
for _, scope in ipairs(scopes) do save_scope(scope) end
return reply
