-- Admits a batch of requests to the models of one quota domain: checks and reserves all windows of the model and of
-- the account, all or nothing. A refused request consumes nothing. A batch is applied once, by its sequence; what comes again in a younger
-- one is idempotent by reservation. A replay admits what a lost server had admitted, whatever the windows say, charged now: later than true.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- ARGV[2]  msgpack {{reservation, index of the model, pool, tokens in, tokens out, cost nano-USD, lease ms, resent, how the state is treated}, ...}
-- ARGV[3]  msgpack {node, sequence, 0, term, epoch, 1 if this is a replay}
-- Returns  {now ms, epoch, note, value, then for each request that was not plainly admitted: its index, code, time ms, name}
--          note 0 applied (value: the term); nothing was changed: 1 the sequence is not younger than the one on record (value),
--          2 the node has to assert itself in a new term, 3 nobody is admitted before `value` ms or the end of all assertions
--          code 0 admitted as the one trial (time 1) or out of the node's own lease (time 2), 1 at a limit (name of the window), 2 on standby (name of the reason),
--          3 larger than a limit, 4 the calendar in ARGV[1] is out of date, 5 another request is the trial
-- Publishes term_opened, model_trial, model_activated, provider_trial, provider_activated
--#include now
--#include windows
--#include entities
--#include run
--#include term
--#include bookkeeping
--#include leases

local ADMITTED, AT_LIMIT, TOO_LARGE, STALE_CALENDAR = 0, 1, 3, 4
local limits = cmsgpack.unpack(ARGV[1])
local asks = cmsgpack.unpack(ARGV[2])
local caller = read_caller(ARGV[3], 'a')
home.domain, home.channel, home.node = limits[1], limits[2], caller.node

local now = now_ms()
local note, value = enter(caller, now)
if note ~= FINE then return { now, 0, note, value } end
local tally = new_tally()

abandon(redis.call('ZRANGEBYSCORE', KEYS[1] .. ':flight', '-inf', int(now), 'LIMIT', 0, 50), tally)

local account = load_scope(KEYS[1] .. ':win:a', limits[3], now, account_in_flight)
local providers, models = {}, {}
for i, m in ipairs(limits[4]) do
  providers[m[2]] = providers[m[2]] or load_entity('provider', m[2])
  models[i] = {
    id = m[1],
    entity = load_entity('model', m[1]),
    provider = providers[m[2]],
    scope = load_scope(KEYS[1] .. ':win:m:' .. m[1], m[3], now, model_in_flight(m[1])),
    records = {},
  }
  account.stale = account.stale or models[i].scope.stale -- the whole batch comes again, so none of it may be admitted now
end

local function already_admitted(model, reservation)
  return redis.call('HEXISTS', KEYS[1] .. ':res:' .. model.id, reservation) == 1
end

local function closed_gate(model, how)
  local code, at
  if model.provider.status ~= 'active' then
    code, at = gate(model.provider, now, how)
    if code then return code, at, model.provider.reason end
  end
  if model.entity.status ~= 'active' then
    code, at = gate(model.entity, now, how)
    if code then return code, at, model.entity.reason end
  end
end

local amounts = { 1, 0, 0, 0, 0 }

local function refuse(model, how)
  if account.stale then return STALE_CALENDAR, 0, '' end
  if caller.is_replay then return end
  local code, at, name = closed_gate(model, how)
  if code then return code, at, name end
  name, at = refusal(model.scope, amounts, now)
  local account_name, account_at = refusal(account, amounts, now)
  if account_name and (not name or account_at == -1 or (at ~= -1 and account_at > at)) then
    name, at = account_name, account_at
  end
  if name then return at == -1 and TOO_LARGE or AT_LIMIT, at, name end
end

local function move_lease(model, sign)
  for dimension = 1, 5 do model.lease[dimension] = model.lease[dimension] + sign * amounts[dimension] end
  hold(model.scope, amounts, sign)
  hold(account, amounts, sign)
end

local function has_own_lease(model)
  if account.held[1] == 0 and model.scope.held[1] == 0 then return false end
  if model.lease == nil then
    model.lease_name = lease_name(home.node, model.id)
    model.lease, model.lease_sequence = read_lease(model.lease_name)
    model.lease = model.lease or false
  end
  if not model.lease then return false end
  for dimension = 1, 5 do
    if model.lease[dimension] < amounts[dimension] then return false end
  end
  return true
end

-- When leases stand in the way, the node's own lease on the model gives way to the request. True if that made room.
local function spend_own_lease(model, how)
  if not has_own_lease(model) then return false end
  move_lease(model, -1)
  if refuse(model, how) then
    move_lease(model, 1)
    return false
  end
  model.is_lease_spent = true
  return true
end

local reply, flight, expiries = { now, 0, note, value }, {}, {}

local function except(i, code, at, name)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = i, code, at, name
end

local function reserve(i, ask, model, from_lease)
  local reservation, lease = ask[1], ask[7]
  take(account, amounts, now)
  take(model.scope, amounts, now)
  local member = member_of(model.id, reservation)
  local trial = not caller.is_replay and claim_trial(model.provider, member, now + lease, now, ask[9])
  trial = not caller.is_replay and claim_trial(model.entity, member, now + lease, now, ask[9]) or trial
  expiries[lease] = expiries[lease] or int(now + lease)
  flight[#flight + 1] = expiries[lease]
  flight[#flight + 1] = member
  local records = model.records
  records[#records + 1] = reservation
  records[#records + 1] = write_record(now, ask[4], ask[5], ask[6], ask[3], model.provider.id)
  count(account_of(tally.books, model.id, ask[3]), 'admitted', 1)
  if trial or from_lease then except(i, ADMITTED, trial and 1 or 2, '') end
end

for i, ask in ipairs(asks) do
  local model = models[ask[2]]
  if ask[8] == 0 or not already_admitted(model, ask[1]) then
    amounts[2], amounts[3], amounts[4], amounts[5] = ask[4] + ask[5], ask[4], ask[5], ask[6]
    local code, at, name = refuse(model, ask[9])
    local from_lease = code == AT_LIMIT and spend_own_lease(model, ask[9])
    if code and not from_lease then except(i, code, at, name) else reserve(i, ask, model, from_lease) end
  end
end

if not account.stale then keep_sequence(caller) end
if #flight > 0 then redis.call('ZADD', KEYS[1] .. ':flight', unpack(flight)) end
save_scope(account)
for _, model in ipairs(models) do
  if #model.records > 0 then redis.call('HSET', KEYS[1] .. ':res:' .. model.id, unpack(model.records)) end
  if model.is_lease_spent then write_lease(model.lease_name, model.lease_sequence, model.lease) end
  save_scope(model.scope)
end
save_tally(tally, now)
reply[2] = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
return reply
