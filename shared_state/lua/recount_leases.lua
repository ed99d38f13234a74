-- Counts again what leases hold of the windows: after a change of the limits a scope may have got its first window, or have lost its last
-- one, and what it holds was not followed without any. Idempotent; whoever still calls with the old windows is put right by its own recount.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {domain, channel, account windows, {{model, provider, windows}, ...}}
-- Returns  {now ms, number of lease records}
--#include now
--#include windows
--#include bookkeeping
--#include leases

local limits, now = cmsgpack.unpack(ARGV[1]), now_ms()
local account, models = { 0, 0, 0, 0, 0 }, {}
local records = redis.call('HGETALL', KEYS[1] .. ':lease')
for i = 1, #records, 2 do
  local model = records[i]:match('^[^\t]*\t([^\t]*)')
  models[model] = models[model] or { 0, 0, 0, 0, 0 }
  local amounts = { select(2, struct.unpack(LEASE, records[i + 1])) }
  for dimension = 1, 5 do
    models[model][dimension] = models[model][dimension] + amounts[dimension]
    account[dimension] = account[dimension] + amounts[dimension]
  end
end

local function recount(key, windows, held, in_flight)
  if #windows == 0 then
    redis.call('HDEL', key, 'held:1', 'held:2', 'held:3', 'held:4', 'held:5')
    return
  end
  local scope = load_scope(key, windows, now, in_flight)
  scope.held, scope.is_held_dirty = held, true
  save_scope(scope)
end

recount(KEYS[1] .. ':win:a', limits[3], account, account_in_flight)
for _, m in ipairs(limits[4]) do
  recount(KEYS[1] .. ':win:m:' .. m[1], m[3], models[m[1]] or { 0, 0, 0, 0, 0 }, model_in_flight(m[1]))
end
return { now, #records / 2 }
