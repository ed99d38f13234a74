-- Puts models whose maintenance is running on standby until it ends, once for each window: an operator may bring one back before.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  name of the domain
-- ARGV[3]  channel
-- ARGV[4]  msgpack {{model, begin of the window ms, its end ms}, ...}
-- Returns  how many were put on standby; -1 if the token is out of date
-- Publishes model_deactivated
--#include now
--#include fence
--#include entities

if fenced_off(tonumber(ARGV[1])) then return -1 end
home.domain, home.channel, home.node = ARGV[2], ARGV[3], 'scheduler'
local now, rested = now_ms(), 0
for _, rest in ipairs(cmsgpack.unpack(ARGV[4])) do
  local entity = load_entity('model', rest[1])
  local maintained = tonumber(redis.call('HGET', entity.key, 'maintained') or 0)
  if maintained < rest[2] and now < rest[3] then
    redis.call('HSET', entity.key, 'maintained', int(rest[2]))
    deactivate(entity, 'maintenance_window', rest[3], 'time', now)
    rested = rested + 1
  end
end
return rested
