-- What an outcome does to the state of a model and of its account. Of the script that includes it this needs `now` and `account`.
--
-- A model is {entity, provider, scope, errors: length of an error window in ms -> {successes, failures}}.

local SUCCESS, FAILURE, NEUTRAL, RATE_LIMITED, CREDENTIALS, QUOTA, UNREACHABLE = 1, 2, 3, 4, 5, 6, 7
local RULES = { auth_takes_account = 1, outage_takes_account = 2, account_is_manual = 4, quota_is_manual = 8 }
local GATE = '*' -- stands for every model behind a gate, which no spent money puts on standby
local OUTAGE_FAILURES, RAMP_SUCCESSES, RAMP_STEP_MS = 5, 3, 1000

local function next_cooldown(entity, policy)
  local length = math.min(policy.max_cooldown, policy.cooldown * 2 ^ math.min(entity.cooldowns, 30))
  set(entity, 'cooldowns', entity.cooldowns + 1)
  return now + math.floor(length)
end

local function fail_over_threshold(model, policy)
  if model.entity.fails >= policy.retry_limit then return true end
  local windows = model.errors[policy.error_window]
  local ok, bad = windows[1].sum, windows[2].sum
  return ok + bad >= policy.error_minimum and bad / (ok + bad) >= policy.error_rate
end

local function record_outcome(model, policy, bad, times)
  local w = model.errors[policy.error_window][bad and 2 or 1]
  bucket_add(w, w.current, times)
end

local function forget_errors(model, policy)
  for _, w in ipairs(model.errors[policy.error_window]) do
    for index = w.old, math.floor(now / w.b) do redis.call('HDEL', model.scope.key, w.name .. ':' .. int(index)) end
    w.sum, w.fresh, w.add, w.latest, w.before, w.dirty = 0, 0, nil, nil, nil, true
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

local function has_no_phase(model) return model.entity.phase == '' and model.provider.phase == '' end

-- So many attempts have gone well while neither the model nor its account was in a phase of its own.
local function succeed_plainly(model, policy, times)
  record_outcome(model, policy, false, times)
  set(model.entity, 'fails', 0)
  set(model.provider, 'fails', 0)
end

local function succeed(model, policy, reservation)
  succeed_plainly(model, policy, 1)
  local entity, provider = model.entity, model.provider
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
  record_outcome(model, policy, true, 1)
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

-- s: {reservation, outcome, latency ms, first token ms, retry after ms, is_stream}
local function judge(model, policy, s)
  local outcome, entity, provider = s.outcome, model.entity, model.provider
  local is_trial = entity.phase == 'trial' or provider.phase == 'trial'
  local reservation = is_trial and member_of(entity.id, s.reservation) or '' -- only a trial looks at who it is
  if outcome == SUCCESS then
    succeed(model, policy, reservation)
    measure(model, s.latency, s.first_token, s.is_stream, now)
  elseif outcome == FAILURE then
    fail(model, policy, reservation, 'error_threshold')
  elseif outcome == UNREACHABLE then
    fail(model, policy, reservation, 'error_threshold')
    judge_unreachable(model, policy)
  elseif outcome == RATE_LIMITED then
    release_trial(model.provider, reservation, now)
    deactivate(model.entity, 'rate_limited', now + s.retry_after, 'time', now)
    release_trial(model.entity, reservation, now) -- still held if the time asked for is no later than the trial's
  elseif outcome == CREDENTIALS and not flagged(policy.flags, RULES.auth_takes_account) then
    refuse_model(model, policy, reservation)
  elseif outcome == CREDENTIALS then
    take_account_out(model, policy, reservation, 'auth', 0)
  elseif outcome == QUOTA then
    take_account_out(model, policy, reservation, 'quota_exhausted', now + s.retry_after)
  else
    release_trial(model.entity, reservation, now)
    release_trial(model.provider, reservation, now)
  end
end

-- Puts an entity on standby until a period ends, and notes by which calls that was judged and what held before: see spending.lua.
local function rest(entity, reason, until_ms, last)
  local was_standby, was_until = entity.status == 'standby', entity['until']
  local before = was_standby and (noted_rest(entity) or { before = was_until, reason = entity.reason }) or { before = 0, reason = '' }
  deactivate(entity, reason, until_ms, 'time', now)
  if not (was_standby and was_until == entity['until']) then note_rest(entity, last, before) end
end

-- A cap or a budget is reached when what is left of it would not carry another call like the one that has just ended. What is only
-- reserved, by the models that `ids` names, may come back and does not count.
local function judge_spending(entity, scope, last, policy, ids)
  if entity.status == 'standby' and entity.mode == 'manual' then return end
  local reserved
  for _, w in ipairs(scope.windows) do
    if w.alert ~= 0 and is_spent(w, last, NOTHING) then
      local known = not reserved and ids()
      reserved = reserved or (known and still_reserved(known))
      if reserved and is_spent(w, last, reserved) then
        local is_budget = w.alert > 0
        local reason = is_budget and 'budget_exceeded' or w.name
        if w.alert == -2 or (is_budget and flagged(policy.flags, RULES.quota_is_manual)) then
          deactivate(entity, reason, 0, 'manual', now)
        else
          rest(entity, reason, w.ends, last)
        end
      end
    end
  end
end

local function judge_model_spending(model)
  if not model.last_used then return end
  judge_spending(model.entity, model.scope, model.last_used, model.last_policy, function() return { [model.entity.id] = true } end)
end

local function judge_account_spending(provider)
  if not provider.last_policy then return end
  judge_spending(provider, account, { 0, 0, 0, 0, account.least_cost }, provider.last_policy, ids_in_flight)
end

-- Says once a period that money has reached its alert threshold.
local function alert_budgets(scope, kind, id)
  for _, w in ipairs(scope.windows) do
    if w.alert > 0 and w.sum >= w.alert then
      local told = w.name .. ':alerted'
      if redis.call('HGET', scope.key, told) ~= int(w.mark) then
        redis.call('HSET', scope.key, told, int(w.mark))
        tell('budget_alert', kind, id, w.name, w.ends, home.epoch, now)
      end
    end
  end
end
