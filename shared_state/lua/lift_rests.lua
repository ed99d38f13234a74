-- Ends standbys that spent money and caps have brought about, where the limits are by now such that another call would find room: judged by the
-- same rule that began them. What was to be waited for besides is waited for still; an operator's order stays.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  name of the domain
-- ARGV[3]  channel
-- ARGV[4]  msgpack {account windows, {{'model' or 'provider', id, windows of the model}, ...}}
-- Returns  {'model' or 'provider', id, ...} of those whose standby has ended or become shorter; {-1} if the token is out of date
-- Publishes model_activated, model_ready, model_deactivated, provider_activated, provider_ready, provider_deactivated
--#include now
--#include fence
--#include windows
--#include entities
--#include bookkeeping
--#include spending

if fenced_off(tonumber(ARGV[1])) then return { -1 } end
home.domain, home.channel, home.node = ARGV[2], ARGV[3], 'scheduler'
local now, asked, lifted = now_ms(), cmsgpack.unpack(ARGV[4]), {}

local function scope_of(kind, id, windows)
  if kind == 'provider' then return load_scope(KEYS[1] .. ':win:a', asked[1], now, account_in_flight) end
  return load_scope(KEYS[1] .. ':win:m:' .. id, windows, now, model_in_flight(id))
end

local function has_room(scope, last, ids)
  if scope.stale or not ids then return false end
  local reserved = still_reserved(ids)
  for _, w in ipairs(scope.windows) do
    if is_spent(w, last, reserved) then return false end
  end
  return true
end

local function lift(entity, rest)
  set(entity, 'trigger', 'limit_raised')
  if rest.before <= now and entity.mode == 'time' then
    activate(entity, '', now)
    return
  end
  set(entity, 'reason', rest.reason)
  set(entity, 'until', math.max(now, rest.before))
  set(entity, 'trigger', trigger_of(entity.reason, entity.mode, entity['until']))
  redis.call('ZADD', KEYS[1] .. ':due', int(entity['until']), due_name(entity))
  announce(entity, rest.before > now and 'deactivated' or 'ready', now)
end

for _, one in ipairs(asked[2]) do
  local kind, id = one[1], one[2]
  local entity = load_entity(kind, id)
  local rest = entity.status == 'standby' and entity.mode ~= 'manual' and entity['until'] > now and noted_rest(entity)
  if rest and has_room(scope_of(kind, id, one[3]), rest.last, kind == 'provider' and ids_in_flight() or { [id] = true }) then
    lift(entity, rest)
    save_entity(entity)
    lifted[#lifted + 1], lifted[#lifted + 2] = kind, id
  end
end
return lifted
