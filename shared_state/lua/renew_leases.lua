-- A node reports what it spent of its leases and what it keeps, and has them filled up, by what it wants and what remains. Idempotent
-- by sequence. A lease never falls below what the node says it keeps, so a lost reply leaves nothing in its hands that is not held here.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- ARGV[2]  node
-- ARGV[3]  sequence, larger with every renewal of this node
-- ARGV[4]  life of the leases, ms
-- ARGV[5]  share: a lease takes at most one part in this many of what remains
-- ARGV[6]  msgpack {{index of the model, {used: requests, tokens, in, out, cost}, {kept: the same}, requests wanted, {one request: the
--          same}, {spent on calls that still run: the same}}, ...}
-- Returns  {now ms, epoch, then for each model what its lease holds now: requests, tokens, in, out, cost}; {now ms, -1}: the calendar is out of date
--#include now
--#include windows
--#include bookkeeping
--#include leases

local limits, node, sequence = cmsgpack.unpack(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local life, share, wishes = tonumber(ARGV[4]), tonumber(ARGV[5]), cmsgpack.unpack(ARGV[6])
local now = now_ms()
local account = load_scope(KEYS[1] .. ':win:a', limits[3], now, account_in_flight)
local scopes = {}
for i, m in ipairs(limits[4]) do
  scopes[i] = load_scope(KEYS[1] .. ':win:m:' .. m[1], m[3], now, model_in_flight(m[1]))
  account.stale = account.stale or scopes[i].stale
end
if account.stale then return { now, -1 } end

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

local function hold_both(scope, amounts, sign)
  hold(scope, amounts, sign)
  hold(account, amounts, sign)
end

-- What may be held for calls that run: no more than what was held so far. Nothing if the lease has ended, for its end has charged all of it.
local function still_running(name, old, running)
  local busy = read_lease(busy_name(name)) or { 0, 0, 0, 0, 0 }
  local amounts = { 0, 0, 0, 0, 0 }
  if old then
    for dimension = 1, 5 do amounts[dimension] = math.min(running[dimension], old[dimension] + busy[dimension]) end
  end
  return amounts, busy
end

local function renew(wish)
  local scope, used, kept, one = scopes[wish[1]], wish[2], wish[3], wish[5]
  local name = lease_name(node, limits[4][wish[1]][1])
  local old, seen = read_lease(name)
  if old and seen >= sequence then return old end
  local running, busy = still_running(name, old, wish[6])
  if old then
    hold_both(scope, old, -1)
    hold_both(scope, busy, -1)
    take(scope, used, now)
    take(account, used, now)
  end
  hold_both(scope, running, 1)
  local granted = fitting(account, one, fitting(scope, one, wish[4]))
  local amounts = {}
  for dimension = 1, 5 do
    amounts[dimension] = math.max(granted * one[dimension], old and math.min(kept[dimension], old[dimension]) or 0)
  end
  if amounts[1] == 0 and running[1] == 0 then
    if old then drop_lease(name) end
    return { 0, 0, 0, 0, 0 }
  end
  hold_both(scope, amounts, 1)
  write_lease(name, sequence, amounts)
  write_busy(name, running)
  redis.call('ZADD', KEYS[1] .. ':lease:ends', int(now + life), name)
  return amounts
end

local reply = { now, tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0) }
for _, wish in ipairs(wishes) do
  for _, amount in ipairs(renew(wish)) do reply[#reply + 1] = amount end
end
save_scope(account)
for _, scope in ipairs(scopes) do save_scope(scope) end
return reply
