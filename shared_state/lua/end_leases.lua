-- Ends leases whose time is over: nobody knows what of them was used, so all of it is charged, now, which is later than any use.
-- Nothing ends a lease earlier, not even the death of its node: a node that only seems dead may still spend it. What is charged is
-- booked, as admitted and abandoned, under no pool: these may be calls whose node died before it could book them.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- ARGV[2]  fencing token of the scheduler
-- ARGV[3]  most leases to end
-- Returns  number of leases ended, -1 if the token is out of date, -2 if the calendar is
--#include now
--#include fence
--#include windows
--#include bookkeeping
--#include leases

if fenced_off(tonumber(ARGV[2])) then return -1 end
local limits, now = cmsgpack.unpack(ARGV[1]), now_ms()
local account = load_scope(KEYS[1] .. ':win:a', limits[3], now, account_in_flight)
local scopes = {}
for _, m in ipairs(limits[4]) do
  scopes[m[1]] = load_scope(KEYS[1] .. ':win:m:' .. m[1], m[3], now, model_in_flight(m[1]))
  account.stale = account.stale or scopes[m[1]].stale
end
if account.stale then return -2 end

local function charge(scope, amounts)
  if not scope then return end
  hold(scope, amounts, -1)
  take(scope, amounts, now)
end

local tally = new_tally()
local function book(model, requests)
  local books = books_of(tally, model, '')
  count(books, 'admitted', requests)
  count(books, 'abandoned', requests)
end

local over = redis.call('ZRANGEBYSCORE', KEYS[1] .. ':lease:ends', '-inf', int(now), 'LIMIT', 0, tonumber(ARGV[3]))
for _, name in ipairs(over) do
  local model = name:match('\t(.*)$')
  for _, part in ipairs({ name, busy_name(name) }) do
    local amounts = read_lease(part)
    if amounts then
      charge(account, amounts)
      charge(scopes[model], amounts)
      book(model, amounts[1])
    end
  end
  drop_lease(name)
end
save_scope(account)
for _, scope in pairs(scopes) do save_scope(scope) end
save_tally(tally, now)
return #over
