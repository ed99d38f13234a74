-- Begins the recovery of entities whose time has come: those that come back by themselves become active, the others are opened for
-- their one trial and leave the due list.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  name of the domain
-- ARGV[3]  channel
-- ARGV[4]  most entities to look at
-- Returns  {due name, 'active' or 'trial', ...} of what was moved; {-1} if the token is out of date
-- Publishes model_activated, model_ready, provider_activated, provider_ready
--#include now
--#include fence
--#include entities

if fenced_off(tonumber(ARGV[1])) then return { -1 } end
home.domain, home.channel, home.node = ARGV[2], ARGV[3], 'scheduler'
local now, moved = now_ms(), {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1] .. ':due', '-inf', int(now), 'LIMIT', 0, tonumber(ARGV[4]))) do
  local entity = load_entity(name:sub(1, 1) == 'm' and 'model' or 'provider', name:sub(3))
  redis.call('ZREM', KEYS[1] .. ':due', name)
  if entity.status == 'standby' and entity['until'] <= now then
    moved[#moved + 1] = name
    if entity.mode == 'trial' then
      announce(entity, 'ready', now)
      moved[#moved + 1] = 'trial'
    else
      activate(entity, '', now)
      moved[#moved + 1] = 'active'
    end
  end
end
return moved
