-- One exchange between a node and a quota domain: settles the attempts that have ended, then admits the requests that wait. Either part may be
-- missing. Whatever both need is read once and written once.
--
-- An attempt is settled once, by its reservation: what was settled or abandoned before changes nothing. It is released, what was reserved is trued
-- up, its outcome tallied, thresholds judged, the state moved, statistics counted. A request is checked against all windows of its model and of the
-- account and reserves them, all or nothing; a refused one consumes nothing. One that comes again is idempotent by its reservation.
-- Each part is applied once, by its sequence. What a settlement gives back may still be on its way here; the admit sequence that the caller
-- voids says so. A replay applies what a lost server had applied, whatever the windows say, charged now: later than true.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- ARGV[2]  msgpack {node, term, epoch, 1 if this is a replay, admit sequence up to which admissions without an answer are given up,
--          sequence of the requests, sequence of the attempts}; sequence 0: there are none
-- ARGV[3]  requests: msgpack {groups, {group, reservation, tokens in, tokens out, cost nano-USD, ...}}
--          group   {index of the model, pool, lease ms, how the state is treated, 1 if resent, then sums: number, tokens in, tokens out, cost}
-- ARGV[4]  attempts: msgpack {groups, {reservation, group, outcome, tokens in, tokens out, cost nano-USD, latency ms, first token ms, flags,
--          dispatch delay ms, ...}, {{place, retry after ms, {{window, remaining by the provider's own count, ms until it resets}, ...}}, ...}}
--          group   {index of the model, index of the policy, pool}
--          outcome 1 success, 2 failure, 3 nobody's fault, 4 rate limited until retry after, 5 credentials refused,
--                  6 quota spent, 7 unreachable; tokens of -1: unknown, the reservation is charged
--          flags   1 not sent (nothing is charged), 2 usage is estimated, 4 admitted out of a lease while Redis was away:
--                  the lease is charged by its renewal, here the attempt is booked, once; 64 a stream
-- ARGV[5]  msgpack {{retry limit, error rate, error window ms, error minimum, cooldown ms, max cooldown ms, ramp steps, flags}, ...}
--          flags   1 refused credentials take the whole account out, 2 so does an outage, 4 both until an operator brings it back,
--                  8 a spent quota until an operator brings it back
-- Returns  {now ms, epoch, note on the requests, its value, note on the attempts, its value, {places of attempts that changed nothing},
--          then for each request that was not plainly admitted: its place, code, time ms, name}
--          note 0 applied (value: the term); nothing was changed: 1 the sequence is not younger than the one on record (value),
--          2 the node has to assert itself in a new term, 3 nobody is admitted before `value` ms or the end of all assertions,
--          4 the calendar in ARGV[1] is out of date
--          code 0 admitted as the one trial (time 1) or out of the node's own lease (time 2), 1 at a limit (name of the window), 2 on standby
--          (name of the reason), 3 larger than a limit, 5 another request is the trial
-- Publishes term_opened, budget_alert, model_trial, model_trial_over, model_deactivated, model_activated, model_ramp, provider_trial,
--          provider_trial_over, provider_deactivated, provider_activated
--#include now
--#include windows
--#include entities
--#include run
--#include term
--#include bookkeeping
--#include leases
--#include learned
--#include speed

local STALE_CALENDAR = 4
local MEASURED = { 'status', 'phase', 'fails', 'latency', 'ttft', 'peak', 'measured' }

-- Of this call: what both parts share.
local now, caller, tally, policies, account, models, providers

local settle_batch, admit_batch
do
  --#include spending
  --#include judging
  --#include settling
end
do
  --#include admitting
end

-- Tables that come with every call and seldom change, by their packed text. What was lost is unpacked again. Windows stay with their
-- descriptions, so that they need not be made anew; whatever in them is of one call is set when they are loaded.
local MOST_KEPT = 256
local kept, kept_count = {}, 0
local function unpack_once(packed, read)
  local found = kept[packed]
  if not found then
    if kept_count >= MOST_KEPT then kept, kept_count = {}, 0 end
    found = read(cmsgpack.unpack(packed))
    kept[packed], kept_count = found, kept_count + 1
  end
  return found
end

local function read_limits(rows) return rows end

local function read_policies(rows)
  local found = {}
  for i, p in ipairs(rows) do
    found[i] = { retry_limit = p[1], error_rate = p[2], error_window = p[3], error_minimum = p[4], cooldown = p[5],
      max_cooldown = p[6], ramp_steps = p[7], flags = p[8] }
  end
  return found
end

-- Descriptions of the two counters of an error rate. They stay with the model's row, as those of its windows do.
local function describe_errors(m, length)
  m.errors = m.errors or {}
  if not m.errors[length] then
    local name, bucket = int(length), math.max(1, math.floor(length / 12))
    m.errors[length] = { { SLIDING, 'ok' .. name, 1, 0, length, bucket, 0, 0 }, { SLIDING, 'bad' .. name, 1, 0, length, bucket, 0, 0 } }
  end
  return m.errors[length]
end

-- The counters of all error rates that the attempts of a model belong to, and those of each length by themselves; nil if it has none.
local function counters_of(m, index, groups)
  local specs, by_length
  for _, group in ipairs(groups) do
    local length = policies[group[2]].error_window
    if group[1] == index and not (by_length and by_length[length]) then
      local pair = describe_errors(m, length)
      specs = specs and { pair[1], pair[2], unpack(specs) } or pair
      by_length = by_length or {}
      by_length[length] = pair
    end
  end
  return specs, by_length
end

local function load_model(m, counters, by_length)
  providers[m[2]] = providers[m[2]] or load_entity('provider', m[2])
  local model = { entity = load_entity('model', m[1], counters and MEASURED), provider = providers[m[2]], errors = {},
    scope = load_scope(KEYS[1] .. ':win:m:' .. m[1], m[3], now, model_in_flight(m[1]), counters) }
  for length, pair in pairs(by_length or {}) do model.errors[length] = { pair[1].window, pair[2].window } end
  return model
end

-- Loads whatever the batch touches; false if the calendar is out of date.
local function load(limits, ended)
  account = load_scope(KEYS[1] .. ':win:a', limits[3], now, account_in_flight)
  models, providers = {}, {}
  local is_stale = account.stale
  for i, m in ipairs(limits[4]) do
    models[i] = load_model(m, counters_of(m, i, ended and ended[1] or {}))
    is_stale = is_stale or models[i].scope.stale
  end
  return not is_stale
end

local function save()
  save_scope(account)
  for _, model in ipairs(models) do
    save_scope(model.scope)
    save_entity(model.entity)
  end
  for _, provider in pairs(providers) do save_entity(provider) end
  save_tally(tally, now)
end

local function exchange()
  local limits = unpack_once(ARGV[1], read_limits)
  now, caller = now_ms(), read_caller(ARGV[2], { 'a', 's' })
  home.domain, home.channel, home.node = limits[1], limits[2], caller.node
  local note, value = enter(caller, now)
  local requests, attempts = caller.parts[1], caller.parts[2]
  if note ~= FINE then return { now, 0, note, value, note, value, {} } end
  local reply = { now, home.epoch, requests.note, requests.value, attempts.note, attempts.value, {} }
  if not (requests.is_open or attempts.is_open) then return reply end

  tally = new_tally(home.minute)
  if requests.is_open then
    abandon(redis.call('ZRANGEBYSCORE', KEYS[1] .. ':flight', '-inf', int(now), 'LIMIT', 0, 50), tally)
  end
  local ended = attempts.is_open and cmsgpack.unpack(ARGV[4])
  policies = ended and unpack_once(ARGV[5], read_policies)
  if not load(limits, ended) then
    save_tally(tally, now)
    return { now, home.epoch, STALE_CALENDAR, 0, STALE_CALENDAR, 0, {} }
  end
  keep_sequences(caller)
  if ended then reply[7] = settle_batch(ended) end
  if requests.is_open then admit_batch(cmsgpack.unpack(ARGV[3]), reply) end
  save()
  reply[2] = home.epoch
  return reply
end

return exchange()
