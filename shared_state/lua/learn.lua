-- Tightens the books of a quota domain by what its provider says at the head of an answer that will take a while to settle.
-- Needs no idempotence of its own: the same word again, or an older one, finds nothing to take away.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- ARGV[2]  msgpack {{index of the model, {{window, remaining by the provider's own count, ms until it resets}, ...}}, ...}
-- ARGV[3]  node
-- Returns  {now ms, epoch}; {now ms, -1}: the calendar in ARGV[1] is out of date
-- Publishes model_deactivated
--#include now
--#include windows
--#include entities
--#include bookkeeping
--#include learned

local limits, heads = cmsgpack.unpack(ARGV[1]), cmsgpack.unpack(ARGV[2])
home.domain, home.channel, home.node = limits[1], limits[2], ARGV[3]
local now = now_ms()

local account = load_scope(KEYS[1] .. ':win:a', limits[3], now, account_in_flight)
local models, stale = {}, account.stale
for i, m in ipairs(limits[4]) do
  models[i] = { entity = load_entity('model', m[1]),
    scope = load_scope(KEYS[1] .. ':win:m:' .. m[1], m[3], now, model_in_flight(m[1])) }
  stale = stale or models[i].scope.stale
end
if stale then return { now, -1 } end

for _, head in ipairs(heads) do
  local model = models[head[1]]
  learn(model.scope, account, model.entity, head[2], now)
end

save_scope(account)
for _, model in ipairs(models) do
  save_scope(model.scope)
  save_entity(model.entity)
end
return { now, tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0) }
