-- Admits a batch of requests. The script that includes it declares `now`, `caller`, `account`, `models` and `tally`, and `admit_batch`, which is defined
-- here.
--
-- A group is {index of the model, pool, lease ms, how the state is treated, 1 if an earlier try may have been applied, then the sums over its
-- requests: number, tokens in, tokens out, cost}. A request takes ASK_STRIDE places in a flat list: group, reservation, tokens in, tokens out, cost.

local ADMITTED, AT_LIMIT, TOO_LARGE = 0, 1, 3
local ASK_STRIDE = 5

local function already_admitted(model, reservation)
  return redis.call('HEXISTS', KEYS[1] .. ':res:' .. model.entity.id, reservation) == 1
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
    model.lease_name = lease_name(home.node, model.entity.id)
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

local flight

-- What the reservations of a group have in common.
local function prepare(group)
  local model = models[group[1]]
  model.records = model.records or {}
  group.tail, group.expires = record_tail(group[2], model.provider.id), int(now + group[3])
  group.records, group.prefix = model.records, member_of(model.entity.id, '')
end

-- Notes a reservation among those that are written at the end.
local function enlist(group, reservation, tokens_in, tokens_out, cost)
  if not group.tail then prepare(group) end
  local records = group.records
  local n, m = #flight, #records
  flight[n + 1], flight[n + 2] = group.expires, group.prefix .. reservation
  records[m + 1], records[m + 2] = reservation, write_record(now, tokens_in, tokens_out, cost, group.tail)
end

local function claim_trials(group, model, reservation)
  if caller.is_replay then return false end
  local member, expires = member_of(model.entity.id, reservation), now + group[3]
  local is_trial = claim_trial(model.provider, member, expires, now, group[4])
  return claim_trial(model.entity, member, expires, now, group[4]) or is_trial
end

-- Judges and reserves one request; nil if it was plainly admitted, else code, time and name.
local function admit(group, reservation, tokens_in, tokens_out, cost)
  local model, how = models[group[1]], group[4]
  if group[5] == 1 and already_admitted(model, reservation) then return end
  amounts[2], amounts[3], amounts[4], amounts[5] = tokens_in + tokens_out, tokens_in, tokens_out, cost
  local code, at, name = refuse(model, how)
  local from_lease = code == AT_LIMIT and spend_own_lease(model, how)
  if code and not from_lease then return code, at, name end
  take(account, amounts, now)
  take(model.scope, amounts, now)
  local is_trial = claim_trials(group, model, reservation)
  enlist(group, reservation, tokens_in, tokens_out, cost)
  count(books_of(tally, model.entity.id, group[2]), 'admitted', 1)
  if is_trial or from_lease then return ADMITTED, is_trial and 1 or 2, '' end
end

local function fits(scope, sums)
  for _, w in ipairs(scope.windows) do
    if w.limit > 0 and (w.alg == SPACING or w.alg == CAP or w.sum + scope.held[w.dim] + sums[w.dim] > w.limit) then return false end
  end
  return true
end

local function add_sums(sums, group)
  for place = 6, 9 do
    local dimension = place == 6 and 1 or place - 4
    sums[dimension] = sums[dimension] + group[place]
  end
  sums[2] = sums[3] + sums[4]
end

-- If all that is asked for fits at once, whoever comes first, then the sums by model and the sum of all; else nil.
local function sums_that_fit(groups)
  local all, by_model = { 0, 0, 0, 0, 0 }, {}
  for _, group in ipairs(groups) do
    local model = models[group[1]]
    if group[5] == 1 or model.entity.status ~= 'active' or model.provider.status ~= 'active' then return nil end
    by_model[model] = by_model[model] or { 0, 0, 0, 0, 0 }
    add_sums(by_model[model], group)
    add_sums(all, group)
  end
  if not fits(account, all) then return nil end
  for model, sums in pairs(by_model) do
    if not fits(model.scope, sums) then return nil end
  end
  return by_model, all
end

local function admit_all_at_once(groups, flat, by_model, all)
  take(account, all, now)
  for model, sums in pairs(by_model) do take(model.scope, sums, now) end
  for _, group in ipairs(groups) do
    count(books_of(tally, models[group[1]].entity.id, group[2]), 'admitted', group[6])
  end
  for at = 1, #flat, ASK_STRIDE do
    enlist(groups[flat[at]], flat[at + 1], flat[at + 2], flat[at + 3], flat[at + 4])
  end
end

local function save_reservations()
  if #flight == 0 then return end
  redis.call('ZADD', KEYS[1] .. ':flight', unpack(flight))
  for _, model in ipairs(models) do
    if model.records then redis.call('HSET', KEYS[1] .. ':res:' .. model.entity.id, unpack(model.records)) end
    if model.is_lease_spent then write_lease(model.lease_name, model.lease_sequence, model.lease) end
  end
end

-- Admits a batch {groups, requests}; those that were not plainly admitted go to the reply.
function admit_batch(batch, reply)
  local groups, flat = batch[1], batch[2]
  flight = {}
  local by_model, all = sums_that_fit(groups)
  if by_model then
    admit_all_at_once(groups, flat, by_model, all)
  else
    for at = 0, #flat - 1, ASK_STRIDE do
      local code, until_ms, name = admit(groups[flat[at + 1]], flat[at + 2], flat[at + 3], flat[at + 4], flat[at + 5])
      local n = #reply
      if code then reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = at / ASK_STRIDE + 1, code, until_ms, name end
    end
  end
  save_reservations()
end
