-- An operator's order: puts a model or provider on standby, for a time or until further notice, or brings it back.
--
-- KEYS[1]  the domain
-- ARGV[1]  name of the domain
-- ARGV[2]  channel
-- ARGV[3]  node that took the order
-- ARGV[4]  model or provider
-- ARGV[5]  id
-- ARGV[6]  deactivate or activate
-- ARGV[7]  reason
-- ARGV[8]  how long, ms; 0 until further notice
-- Returns  {status, reason, until ms}
-- Publishes model_deactivated, model_activated, provider_deactivated, provider_activated
--#include now
--#include entities

home.domain, home.channel, home.node = ARGV[1], ARGV[2], ARGV[3]
local now, entity, for_ms = now_ms(), load_entity(ARGV[4], ARGV[5]), tonumber(ARGV[8])
if ARGV[6] == 'deactivate' then
  deactivate(entity, ARGV[7], for_ms > 0 and now + for_ms or 0, 'manual', now)
else
  set(entity, 'trigger', 'manual')
  activate(entity, '', now)
end
return { entity.status, entity.reason, entity['until'] }
