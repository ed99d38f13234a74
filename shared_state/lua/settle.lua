-- Settles a batch of attempts of one quota domain: releases, trues up what was reserved, tallies the outcome, judges the
-- thresholds, moves the state and counts the statistics. Idempotent by reservation: what was settled or abandoned before changes nothing.
-- A batch is applied once, by its sequence. What it gives back may still be on its way here; the admit sequence that it voids says so.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- ARGV[2]  msgpack {{reservation, index of the model, index of the policy, outcome, tokens in, tokens out, cost nano-USD,
--                    latency ms, first token ms, retry after ms, flags, dispatch delay ms, pool,
--                    {{window, remaining by the provider's own count, ms until it resets}, ...}}, ...}
--          outcome 1 success, 2 failure, 3 nobody's fault, 4 rate limited until retry after, 5 credentials refused,
--                  6 quota spent, 7 unreachable; tokens of -1: unknown, the reservation is charged
--          flags   1 not sent (nothing is charged), 2 usage is estimated, 4 admitted out of a lease while Redis was away:
--                  the lease is charged by its renewal, here the attempt is booked, once; 64 a stream
-- ARGV[3]  msgpack {node, sequence, admit sequence up to which admissions without an answer are given up, term, epoch, 1 if this is a replay}
-- ARGV[4]  msgpack {{retry limit, error rate, error window ms, error minimum, cooldown ms, max cooldown ms, ramp steps, flags}, ...}
--          flags   1 refused credentials take the whole account out, 2 so does an outage, 4 both until an operator brings it back,
--                  8 a spent quota until an operator brings it back
-- Returns  {now ms, epoch, note, value, then the indexes of those that changed nothing}; epoch -1: the calendar in ARGV[1] is out of date
--          note 0 applied (value: the term); nothing was changed: 1 the sequence is not younger than the one on record (value),
--          2 the node has to assert itself in a new term
-- Publishes term_opened, budget_alert, model_deactivated, model_activated, model_ramp, provider_deactivated, provider_activated
--#include now
--#include windows
--#include entities
--#include run
--#include term
--#include bookkeeping
--#include learned
--#include speed

local SUCCESS, FAILURE, NEUTRAL, RATE_LIMITED, CREDENTIALS, QUOTA, UNREACHABLE = 1, 2, 3, 4, 5, 6, 7
local OUTCOMES = { 'ok', 'failed', 'neutral', 'failed', 'failed', 'failed', 'failed' }
local NOT_SENT, ESTIMATED, LEASED, STREAM = 1, 2, 4, 64
local LEASED_KEPT_MS = 3600000
local RULES = { auth_takes_account = 1, outage_takes_account = 2, account_is_manual = 4, quota_is_manual = 8 }
local GATE = '*' -- stands for every model behind a gate, which no spent money puts on standby
local MANY_IN_FLIGHT = 2000
local OUTAGE_FAILURES, RAMP_SUCCESSES, RAMP_STEP_MS = 5, 3, 1000

local limits = cmsgpack.unpack(ARGV[1])
local settlements = cmsgpack.unpack(ARGV[2])
local policies = {}
for i, p in ipairs(cmsgpack.unpack(ARGV[4])) do
  policies[i] = { retry_limit = p[1], error_rate = p[2], error_window = p[3], error_minimum = p[4], cooldown = p[5],
    max_cooldown = p[6], ramp_steps = p[7], flags = p[8] }
end
local caller = read_caller(ARGV[3], 's')
home.domain, home.channel, home.node = limits[1], limits[2], caller.node

local now = now_ms()
local note, value = enter(caller, now)
if note ~= FINE then return { now, 0, note, value } end
local tally = new_tally()
local account = load_scope(KEYS[1] .. ':win:a', limits[3], now, account_in_flight)
local providers, models = {}, {}

local function load_model(index)
  if models[index] then return models[index] end
  local m = limits[4][index]
  providers[m[2]] = providers[m[2]] or load_entity('provider', m[2])
  models[index] = { entity = load_entity('model', m[1]), provider = providers[m[2]], errors = {},
    scope = load_scope(KEYS[1] .. ':win:m:' .. m[1], m[3], now, model_in_flight(m[1])), reservations = {}, places = {} }
  return models[index]
end

-- The error rate's two counters are sliding windows without a limit.
local function error_window(model, policy)
  local length = policy.error_window
  if not model.errors[length] then
    local bucket = math.max(1, math.floor(length / 12))
    model.errors[length] = load_scope(KEYS[1] .. ':win:m:' .. model.entity.id, {
      { 1, 'ok' .. int(length), 1, 0, length, bucket, 0, 0 },
      { 1, 'bad' .. int(length), 1, 0, length, bucket, 0, 0 },
    }, now)
  end
  return model.errors[length]
end

local function next_cooldown(entity, policy)
  local length = math.min(policy.max_cooldown, policy.cooldown * 2 ^ math.min(entity.cooldowns, 30))
  set(entity, 'cooldowns', entity.cooldowns + 1)
  return now + math.floor(length)
end

local function fail_over_threshold(model, policy)
  if model.entity.fails >= policy.retry_limit then return true end
  local windows = error_window(model, policy).windows
  local ok, bad = windows[1].sum, windows[2].sum
  return ok + bad >= policy.error_minimum and bad / (ok + bad) >= policy.error_rate
end

local function record_outcome(model, policy, bad)
  local w = error_window(model, policy).windows[bad and 2 or 1]
  bucket_add(w, math.floor(now / w.b), 1)
end

local function forget_errors(model, policy)
  for _, w in ipairs(error_window(model, policy).windows) do
    for index = w.old, math.floor(now / w.b) do redis.call('HDEL', model.scope.key, w.name .. ':' .. int(index)) end
    w.sum, w.add, w.dirty = 0, {}, true
  end
end

local function climb(entity, policy)
  set(entity, 'step_ok', entity.step_ok + 1)
  if entity.step_ok < RAMP_SUCCESSES or now - entity.step_at < RAMP_STEP_MS then return end
  if entity.step + 1 >= policy.ramp_steps - 1 then
    set(entity, 'phase', '')
    set(entity, 'cooldowns', 0)
  else
    set(entity, 'step', entity.step + 1)
    set(entity, 'step_ok', 0)
    set(entity, 'step_at', now)
  end
  announce(entity, 'ramp', now)
end

local function succeed(model, policy, reservation)
  record_outcome(model, policy, false)
  local entity, provider = model.entity, model.provider
  set(entity, 'fails', 0)
  set(provider, 'fails', 0)
  if provider.phase == 'trial' and provider.trial == reservation then activate(provider, '', now) end
  if entity.phase == 'trial' and entity.trial == reservation then
    forget_errors(model, policy)
    activate(entity, policy.ramp_steps > 1 and 'ramp' or '', now)
  elseif entity.phase == 'ramp' then
    climb(entity, policy)
  end
end

local function flagged(flags, bit_) return math.floor(flags / bit_) % 2 == 1 end

-- Back to its cooldown, twice as long; a probe that came before its time has shown nothing new and changes nothing.
local function fail_trial(entity, policy, reservation, reason, now)
  if now < entity['until'] then
    release_trial(entity, reservation, now)
  else
    deactivate(entity, reason, next_cooldown(entity, policy), 'trial', now)
  end
end

local function fail(model, policy, reservation, reason)
  record_outcome(model, policy, true)
  local entity, provider = model.entity, model.provider
  set(entity, 'fails', entity.fails + 1)
  if provider.phase == 'trial' and provider.trial == reservation then
    fail_trial(provider, policy, reservation, provider.reason, now)
  end
  if entity.phase == 'trial' and entity.trial == reservation then
    fail_trial(entity, policy, reservation, reason, now)
    forget_errors(model, policy)
  elseif entity.status == 'active' and (entity.phase == 'ramp' or fail_over_threshold(model, policy)) then
    deactivate(entity, reason, next_cooldown(entity, policy), 'trial', now)
    forget_errors(model, policy)
  end
end

local function take_account_out(model, policy, reservation, reason, until_ms)
  release_trial(model.entity, reservation, now)
  local provider = model.provider
  local on_trial = provider.phase == 'trial' and provider.trial == reservation
  if flagged(policy.flags, reason == 'quota_exhausted' and RULES.quota_is_manual or RULES.account_is_manual) then
    if provider.mode ~= 'manual' or provider.status == 'active' then deactivate(provider, reason, 0, 'manual', now) end
  elseif on_trial and until_ms == 0 then
    fail_trial(provider, policy, reservation, reason, now)
  elseif provider.status == 'active' or on_trial then
    deactivate(provider, reason, math.max(until_ms, next_cooldown(provider, policy)), 'trial', now)
  else
    deactivate(provider, reason, until_ms, 'trial', now)
  end
end

-- Where refused credentials are told to concern nobody else: the model rests at once, its account does not.
local function refuse_model(model, policy, reservation)
  local entity = model.entity
  release_trial(model.provider, reservation, now)
  if entity.phase == 'trial' and entity.trial == reservation then
    fail_trial(entity, policy, reservation, 'auth', now)
  elseif entity.status == 'active' then
    deactivate(entity, 'auth', next_cooldown(entity, policy), 'trial', now)
  end
end

local function judge_unreachable(model, policy)
  local provider = model.provider
  set(provider, 'fails', provider.fails + 1)
  if provider.status ~= 'active' or provider.fails < OUTAGE_FAILURES or not flagged(policy.flags, RULES.outage_takes_account) then return end
  local is_manual = flagged(policy.flags, RULES.account_is_manual)
  deactivate(provider, 'outage', is_manual and 0 or next_cooldown(provider, policy), is_manual and 'manual' or 'trial', now)
end

local function judge(model, policy, s)
  local reservation, outcome, retry_after = member_of(model.entity.id, s[1]), s[4], s[10]
  if outcome == SUCCESS then
    succeed(model, policy, reservation)
    measure(model, s[8], s[9], flagged(s[11], STREAM), now)
  elseif outcome == FAILURE then
    fail(model, policy, reservation, 'error_threshold')
  elseif outcome == UNREACHABLE then
    fail(model, policy, reservation, 'error_threshold')
    judge_unreachable(model, policy)
  elseif outcome == RATE_LIMITED then
    release_trial(model.provider, reservation, now)
    deactivate(model.entity, 'rate_limited', now + retry_after, 'time', now)
    release_trial(model.entity, reservation, now) -- still held if the time asked for is no later than the trial's
  elseif outcome == CREDENTIALS and not flagged(policy.flags, RULES.auth_takes_account) then
    refuse_model(model, policy, reservation)
  elseif outcome == CREDENTIALS then
    take_account_out(model, policy, reservation, 'auth', 0)
  elseif outcome == QUOTA then
    take_account_out(model, policy, reservation, 'quota_exhausted', now + retry_after)
  else
    release_trial(model.entity, reservation, now)
    release_trial(model.provider, reservation, now)
  end
end

local LATENCY_BOUNDS = { 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000 }
local LATENCY_NAMES = {}
for i = 1, #LATENCY_BOUNDS + 1 do LATENCY_NAMES[i] = 'latency_le_' .. i end
local function latency_bucket(ms)
  for i, bound in ipairs(LATENCY_BOUNDS) do
    if ms <= bound then return i end
  end
  return #LATENCY_BOUNDS + 1
end

local function count_statistics(r, s, used)
  if s[4] == NEUTRAL and flagged(s[11], NOT_SENT) then return end -- given back before anything was tried
  local stats = account_of(tally.stats, r.model, r.pool)
  count(stats, 'attempts', 1)
  count(stats, OUTCOMES[s[4]], 1)
  if s[4] == RATE_LIMITED or s[4] == QUOTA then count(stats, 'limited', 1) end -- among the failed
  count(stats, 'tokens_in', used[3])
  count(stats, 'tokens_out', used[4])
  count(stats, 'cost', used[5])
  if flagged(s[11], ESTIMATED) then count(stats, 'estimated', 1) end
  if s[4] == SUCCESS then
    count(stats, 'latency_ms', s[8])
    count(stats, LATENCY_NAMES[latency_bucket(s[8])], 1)
    count(stats, 'first_token_ms', s[9])
  end
end

-- What the call that has just ended used, for the judges of caps and budgets; of an account the cheapest of the batch.
local least_cost
local function note_use(model, policy, used)
  model.last_used, model.last_policy = used, policy
  if model.entity.id ~= GATE then model.provider.last_policy = policy end
  least_cost = math.min(least_cost or used[5], used[5])
end

local function settle(s, r)
  local model = models[s[2]]
  local reserved = { 1, r.tokens_in + r.tokens_out, r.tokens_in, r.tokens_out, r.cost }
  local used = { 0, 0, 0, 0, 0 }
  if not flagged(s[11], NOT_SENT) then
    local tokens_in = s[5] >= 0 and s[5] or r.tokens_in
    local tokens_out = s[6] >= 0 and s[6] or r.tokens_out
    used = { 1, tokens_in + tokens_out, tokens_in, tokens_out, s[7] >= 0 and s[7] or r.cost }
  end
  local charged_at = math.min(r.admitted + s[12], now)
  true_up(account, reserved, used, r.admitted, charged_at, now)
  true_up(model.scope, reserved, used, r.admitted, charged_at, now)
  judge(model, policies[s[3]], s)
  if used[1] > 0 then note_use(model, policies[s[3]], used) end
  learn(model.scope, account, model.entity, s[14], now)
  count(account_of(tally.books, r.model, r.pool), 'settled', 1)
  count_statistics(r, s, used)
end

for i, s in ipairs(settlements) do
  local model = load_model(s[2])
  table.insert(model.reservations, s[1])
  table.insert(model.places, i)
end
for _, model in pairs(models) do
  if account.stale or model.scope.stale then return { now, -1, note, value } end
end
keep_sequence(caller)

-- An attempt that was admitted without Redis: it was never reserved, so a list of its own keeps it from being booked twice.
local function book_leased(model, s)
  if redis.call('HSETNX', KEYS[1] .. ':done', s[1], int(now)) == 0 then return false end
  redis.call('PEXPIRE', KEYS[1] .. ':done', LEASED_KEPT_MS)
  local r = { model = model.entity.id, pool = s[13] }
  judge(model, policies[s[3]], s)
  local books = account_of(tally.books, r.model, r.pool)
  count(books, 'admitted', 1)
  count(books, 'settled', 1)
  local tokens_in, tokens_out = math.max(0, s[5]), math.max(0, s[6])
  note_use(model, policies[s[3]], { 1, tokens_in + tokens_out, tokens_in, tokens_out, math.max(0, s[7]) })
  count_statistics(r, s, model.last_used)
  return true
end

local reply = { now, 0, note, value }
for _, model in pairs(models) do
  for i, record in ipairs(close_reservations(model.entity.id, model.reservations)) do
    local place = model.places[i]
    local s = settlements[place]
    if record then
      settle(s, record)
    elseif not (flagged(s[11], LEASED) and book_leased(model, s)) then
      reply[#reply + 1] = place
    end
  end
end

local function still_reserved(ids)
  if not ids then return nil end
  local sums = { 0, 0, 0, 0, 0 }
  for id in pairs(ids) do
    for _, packed in ipairs(redis.call('HVALS', KEYS[1] .. ':res:' .. id)) do
      local r = read_record(id, packed)
      local amounts = { 1, r.tokens_in + r.tokens_out, r.tokens_in, r.tokens_out, r.cost }
      for dimension = 1, 5 do sums[dimension] = sums[dimension] + amounts[dimension] end
    end
  end
  return sums
end

-- nil if so much is in flight that looking at all of it would keep others waiting; it will be less when money is short.
local function ids_in_flight()
  local members, ids = redis.call('ZRANGEBYSCORE', KEYS[1] .. ':flight', '-inf', '+inf', 'LIMIT', 0, MANY_IN_FLIGHT), {}
  if #members == MANY_IN_FLIGHT then return nil end
  for _, member in ipairs(members) do ids[member:match('^[^\t]*')] = true end
  return ids
end

-- A cap or a budget is reached when what is left of it would not carry another call like the one that has just ended. What is only
-- reserved (by the models that `ids` names) may come back and does not count.
local function judge_money_and_caps(entity, scope, last, policy, ids)
  if entity.status == 'standby' and entity.mode == 'manual' then return end
  local reserved
  for _, w in ipairs(scope.windows) do
    if w.alert ~= 0 and w.limit > 0 and w.sum + math.max(1, last[w.dim]) > w.limit then
      reserved = reserved or still_reserved(ids())
      if reserved and w.sum - reserved[w.dim] + math.max(1, last[w.dim]) > w.limit then
        local is_budget = w.alert > 0
        local is_manual = w.alert == -2 or (is_budget and flagged(policy.flags, RULES.quota_is_manual))
        deactivate(entity, is_budget and 'budget_exceeded' or w.name, is_manual and 0 or w.ends, is_manual and 'manual' or 'time', now)
      end
    end
  end
end

-- Says once a period that money has reached its alert threshold.
local function alert_budgets(scope, kind, id)
  for _, w in ipairs(scope.windows) do
    if w.alert > 0 and w.sum >= w.alert then
      local told = w.name .. ':alerted'
      if redis.call('HGET', scope.key, told) ~= int(w.mark) then
        redis.call('HSET', scope.key, told, int(w.mark))
        tell('budget_alert', kind, id, w.name, w.ends, tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0), now)
      end
    end
  end
end

save_scope(account)
alert_budgets(account, 'account', home.domain)
for _, model in pairs(models) do
  save_scope(model.scope)
  if model.last_used then
    local function own_id() return { [model.entity.id] = true } end
    judge_money_and_caps(model.entity, model.scope, model.last_used, model.last_policy, own_id)
  end
  alert_budgets(model.scope, 'model', model.entity.id)
  for _, scope in pairs(model.errors) do save_scope(scope) end
  save_speed(model)
  save_entity(model.entity)
end
for _, provider in pairs(providers) do
  if provider.last_policy then
    judge_money_and_caps(provider, account, { 0, 0, 0, 0, least_cost }, provider.last_policy, ids_in_flight)
  end
  save_entity(provider)
end
save_tally(tally, now)
reply[2] = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
return reply
