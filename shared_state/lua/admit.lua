-- Admits a batch of requests to the models of one quota domain: checks and reserves all windows of the model and of
-- the account, all or nothing. A refused request consumes nothing. Idempotent by reservation.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- ARGV[2]  msgpack {{reservation, index of the model, pool, tokens in, tokens out, cost nano-USD, lease ms, resent}, ...}
-- ARGV[3]  node
-- Returns  {now ms, epoch, then for each request: code, time ms, name}
--          code 0 admitted (time 1: it is the trial), 1 at a limit (name of the window), 2 on standby (name of the reason),
--          3 larger than a limit, 4 the calendar in ARGV[1] is out of date, 5 another request is the trial
-- Publishes model_trial, model_activated, provider_trial, provider_activated
--#include now
--#include windows
--#include entities
--#include bookkeeping

local ADMITTED, AT_LIMIT, TOO_LARGE, STALE = 0, 1, 3, 4
local limits = cmsgpack.unpack(ARGV[1])
local asks = cmsgpack.unpack(ARGV[2])
home.domain, home.channel, home.node = limits[1], limits[2], ARGV[3]

local now = now_ms()
local tally = new_tally()

abandon(redis.call('ZRANGEBYSCORE', KEYS[1] .. ':flight', '-inf', int(now), 'LIMIT', 0, 50), tally)

local account = load_scope(KEYS[1] .. ':win:a', limits[3], now, KEYS[1] .. ':flight')
local providers, models = {}, {}
for i, m in ipairs(limits[4]) do
  providers[m[2]] = providers[m[2]] or load_entity('provider', m[2])
  models[i] = {
    id = m[1],
    entity = load_entity('model', m[1]),
    provider = providers[m[2]],
    scope = load_scope(KEYS[1] .. ':win:m:' .. m[1], m[3], now, KEYS[1] .. ':flight:' .. m[1]),
    flight = {},
  }
end

local records, flight = {}, {}

local function already_admitted(reservation)
  return redis.call('HEXISTS', KEYS[1] .. ':res', reservation) == 1
end

local function refuse(model, amounts)
  if account.stale or model.scope.stale then return STALE, 0, '' end
  for _, entity in ipairs({ model.provider, model.entity }) do
    local code, at = gate(entity, now)
    if code then return code, at, entity.reason end
  end
  local name, at = refusal(model.scope, amounts, now)
  local account_name, account_at = refusal(account, amounts, now)
  if account_name and (not name or account_at == -1 or (at ~= -1 and account_at > at)) then
    name, at = account_name, account_at
  end
  if name then return at == -1 and TOO_LARGE or AT_LIMIT, at, name end
  return nil
end

local reply = { now, 0 }
for _, ask in ipairs(asks) do
  local reservation, model, pool = ask[1], models[ask[2]], ask[3]
  local tokens_in, tokens_out, cost = ask[4], ask[5], ask[6]
  local amounts = { 1, tokens_in + tokens_out, tokens_in, tokens_out, cost }
  local code, at, name
  if ask[8] == 1 and already_admitted(reservation) then
    code, at, name = ADMITTED, 0, ''
  else
    code, at, name = refuse(model, amounts)
    if not code then
      local expires = now + ask[7]
      take(account, amounts, now)
      take(model.scope, amounts, now)
      local trial = claim_trial(model.provider, reservation, expires, now)
      trial = claim_trial(model.entity, reservation, expires, now) or trial
      records[#records + 1] = reservation
      records[#records + 1] = cmsgpack.pack({ model.id, pool, now, tokens_in, tokens_out, cost })
      flight[#flight + 1] = int(expires)
      flight[#flight + 1] = reservation
      model.flight[#model.flight + 1] = int(expires)
      model.flight[#model.flight + 1] = reservation
      count(account_of(tally.books, model.id, pool), 'admitted', 1)
      code, at, name = ADMITTED, trial and 1 or 0, ''
    end
  end
  reply[#reply + 1] = code
  reply[#reply + 1] = at
  reply[#reply + 1] = name
end

if #records > 0 then
  redis.call('HSET', KEYS[1] .. ':res', unpack(records))
  redis.call('ZADD', KEYS[1] .. ':flight', unpack(flight))
end
save_scope(account)
for _, model in ipairs(models) do
  if #model.flight > 0 then redis.call('ZADD', KEYS[1] .. ':flight:' .. model.id, unpack(model.flight)) end
  save_scope(model.scope)
end
save_tally(tally, now)
reply[2] = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
return reply
