-- State of an entity: a model, or the provider account that it runs on. Both are the same kind of record.
--
-- status  active | standby                     reason  why it is on standby
-- mode    time   back by itself when `until` has passed
--         trial  one request in the whole cluster may try it when `until` has passed
--         manual only an operator brings it back
-- trigger  what is to bring it back, and what has, once it is active again
-- phase   ''     plain
--         trial  one reservation (`trial`: model, tab, id) is trying it, until `trial_until` at the latest
--         ramp   active again with a growing share of the traffic (`step`)

-- Who speaks, for events: filled by the script.
local home = { domain = '', channel = '', node = '', epoch = 0 }

-- What a healthy entity is asked for comes first; the rest is read when something looks at it.
local USUAL = { 'status', 'phase', 'fails' }
local REST = { 'reason', 'mode', 'until', 'trigger', 'cooldowns', 'trial', 'trial_until', 'step', 'step_ok', 'step_at' }
local IS_REST = { reason = true, mode = true, ['until'] = true, trigger = true, cooldowns = true, trial = true, trial_until = true,
  step = true, step_ok = true, step_at = true }
local NUMBERS = { ['until'] = true, fails = true, cooldowns = true, trial_until = true, step = true, step_ok = true, step_at = true }

local function read_fields(entity, fields)
  local values = redis.call('HMGET', entity.key, unpack(fields))
  for i = 1, #fields do
    local field, value = fields[i], values[i] or ''
    if NUMBERS[field] then value = tonumber(value) or 0 end
    if rawget(entity, field) == nil then entity[field] = value end
  end
end

local LAZY = {
  __index = function(entity, field)
    if not IS_REST[field] then return nil end
    read_fields(entity, REST)
    return rawget(entity, field)
  end,
}

-- `fields`: USUAL unless the script needs more at once.
local function load_entity(kind, id, fields)
  local entity = setmetatable({ kind = kind, id = id, key = KEYS[1] .. ':' .. kind .. ':' .. id, new = {} }, LAZY)
  read_fields(entity, fields or USUAL)
  if entity.status == '' then entity.status = 'active' end
  return entity
end

local function set(entity, field, value)
  if entity[field] ~= value then
    entity[field] = value
    entity.new[field] = value
  end
end

local function save_entity(entity)
  local flat = {}
  for field, value in pairs(entity.new) do
    flat[#flat + 1] = field
    flat[#flat + 1] = type(value) == 'number' and int(value) or value
  end
  if #flat > 0 then
    redis.call('HSET', entity.key, unpack(flat))
    entity.new = {}
  end
end

-- `numbers`, if there are any: name -> number.
local function tell(event, kind, id, reason, until_ms, epoch, now, numbers)
  local news = cjson.encode({ type = event, time = now, epoch = epoch, domain = home.domain, kind = kind, id = id,
    reason = reason, ['until'] = until_ms, node = home.node, numbers = numbers })
  redis.call('LPUSH', KEYS[1] .. ':news', news)
  redis.call('LTRIM', KEYS[1] .. ':news', 0, 99)
  redis.call('PUBLISH', home.channel, news)
end

-- Raises the epoch and tells everybody. Called after the entity was changed, in the same script: a hint can be lost, never early.
local function announce(entity, event, now)
  save_entity(entity)
  home.epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
  tell(entity.kind .. '_' .. event, entity.kind, entity.id, entity.reason, entity['until'], home.epoch, now)
end

local function due_name(entity)
  return (entity.kind == 'model' and 'm:' or 'p:') .. entity.id
end

-- Where several reasons hold the weightiest is shown; one that is not listed gives way to all others.
local WEIGHTS = { maintenance_window = 6, budget_exceeded = 5, quota_exhausted = 4, error_threshold = 3, auth = 3, outage = 3,
  token_limit = 2, request_limit = 1 }
local QUOTAS = { budget_exceeded = true, quota_exhausted = true, token_limit = true, request_limit = true }
-- Reasons that say how well it is. The others hold even where nobody else is left.
local ILL = { error_threshold = true, outage = true }

local function trigger_of(reason, mode, until_ms)
  if mode == 'trial' then return 'probe_success' end
  if mode == 'manual' and until_ms == 0 then return 'manual' end
  return QUOTAS[reason] and 'quota_reset' or 'cooldown_expired'
end

-- A later failure may lengthen a standby, never shorten it; what an operator ordered stays.
local function deactivate(entity, reason, until_ms, mode, now)
  if entity.status == 'standby' and entity.mode == 'manual' and mode ~= 'manual' then return end
  if entity.status == 'standby' and mode ~= 'manual' and until_ms <= entity['until'] then return end
  if entity.status == 'standby' and entity.mode == 'trial' and mode == 'time' then
    mode = 'trial' -- asked to wait longer, but the trial is still owed
    if (WEIGHTS[reason] or 0) <= (WEIGHTS[entity.reason] or 0) then reason = entity.reason end
  end
  if entity.status ~= 'standby' then set(entity, 'since', now) end
  set(entity, 'status', 'standby')
  set(entity, 'reason', reason)
  set(entity, 'mode', mode)
  set(entity, 'phase', '')
  set(entity, 'until', until_ms)
  set(entity, 'trial', '')
  set(entity, 'trigger', trigger_of(reason, mode, until_ms))
  if mode == 'manual' and until_ms == 0 then
    redis.call('ZREM', KEYS[1] .. ':due', due_name(entity))
  else
    redis.call('ZADD', KEYS[1] .. ':due', int(until_ms), due_name(entity))
  end
  announce(entity, 'deactivated', now)
end

local function activate(entity, phase, now)
  set(entity, 'status', 'active')
  set(entity, 'since', now)
  set(entity, 'phase', phase)
  set(entity, 'until', 0)
  set(entity, 'fails', 0)
  set(entity, 'trial', '')
  if phase == 'ramp' then
    set(entity, 'step', 0)
    set(entity, 'step_ok', 0)
    set(entity, 'step_at', now)
  else
    set(entity, 'cooldowns', 0)
  end
  redis.call('ZREM', KEYS[1] .. ':due', due_name(entity))
  announce(entity, 'activated', now)
end

-- How an ask treats the state: as usual; despite the illness of its model, for the pool has nobody better; or as a probe, which does
-- not wait for the time of the trial that it is.
local HOW = { normal = 0, despite = 1, probe = 2, startup_probe = 3 }

local function is_passed_over(entity, how) return how == HOW.despite and entity.mode ~= 'manual' and ILL[entity.reason] end

-- Whether a reservation may use the entity now: nil, or the refusal as {code, time}. The trial is granted later, when all windows agree.
local STANDBY, TRIAL_TAKEN = 2, 5
local function gate(entity, now, how)
  if entity.status == 'active' or is_passed_over(entity, how) then return nil end
  if entity['until'] == 0 and entity.mode == 'manual' then return STANDBY, 0 end
  if now < entity['until'] and not (how >= HOW.probe and entity.mode == 'trial') then return STANDBY, entity['until'] end
  if entity.mode == 'time' or entity.mode == 'manual' then
    activate(entity, '', now)
    return nil
  end
  -- A trial claimed by this very batch is not among the reservations yet.
  if entity.phase == 'trial' and now < entity.trial_until
    and (entity.is_claimed or redis.call('ZSCORE', KEYS[1] .. ':flight', entity.trial)) then
    return TRIAL_TAKEN, entity.trial_until
  end
  return nil
end

-- A trial that proved nothing makes room for another.
local function release_trial(entity, member, now)
  if entity.phase == 'trial' and entity.trial == member then
    set(entity, 'phase', '')
    set(entity, 'trial', '')
    announce(entity, 'trial_over', now)
  end
end

-- Marks the reservation as the one trial of an entity whose gate is open though it is on standby.
local function claim_trial(entity, member, expires, now, how)
  if entity.status ~= 'standby' or is_passed_over(entity, how) then return false end
  set(entity, 'phase', 'trial')
  set(entity, 'trial', member)
  set(entity, 'trial_until', expires)
  set(entity, 'trigger', how == HOW.startup_probe and 'startup_probe' or 'probe_success')
  entity.is_claimed = true
  announce(entity, 'trial', now)
  return true
end
