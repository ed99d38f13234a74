-- Keeps what a provider lists now, tells what has changed since the list before, and takes models out or brings them back.
-- Happens once for each list that it was compared with: whoever sends it again, or has compared with an older list, changes nothing.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  name of the domain
-- ARGV[3]  channel
-- ARGV[4]  provider
-- ARGV[5]  version of the list that this one was compared with; 0 for none
-- ARGV[6]  the list
-- ARGV[7]  how long it is kept without a newer one, ms
-- ARGV[8]  msgpack {{event, model, reason, until ms, numbers}, ...}
-- ARGV[9]  msgpack {{model, 'deactivate' or 'activate'}, ...}
-- ARGV[10]  reason of the standby that this command brings about; no other is ended by it
-- ARGV[11]  the time that it was compared at, ms
-- ARGV[12]  JSON {configured model: sizes that are listed otherwise}, all that hold now
-- Returns  1; 0 if another list was kept meanwhile; -1 if the token is out of date
-- Publishes model_discovered, model_deprecated, model_changed, model_deactivated, model_activated
--#include now
--#include fence
--#include entities

if fenced_off(tonumber(ARGV[1])) then return -1 end
local key = KEYS[1] .. ':list:' .. ARGV[4]
if (tonumber(redis.call('HGET', key, 'version') or 0)) ~= tonumber(ARGV[5]) then return 0 end
home.domain, home.channel, home.node = ARGV[2], ARGV[3], 'scheduler'
local now = now_ms()
redis.call('HSET', key, 'version', int(tonumber(ARGV[5]) + 1), 'time', ARGV[11], 'models', ARGV[6], 'mismatches', ARGV[12])
redis.call('PEXPIRE', key, ARGV[7])

local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
for _, news in ipairs(cmsgpack.unpack(ARGV[8])) do
  tell(news[1], 'model', news[2], news[3], news[4], epoch, now, next(news[5]) ~= nil and news[5] or nil)
end
for _, order in ipairs(cmsgpack.unpack(ARGV[9])) do
  local entity = load_entity('model', order[1])
  local is_manual = entity.status == 'standby' and entity.mode == 'manual'
  if order[2] == 'deactivate' and not is_manual then
    deactivate(entity, ARGV[10], 0, 'manual', now)
  elseif order[2] == 'activate' and is_manual and entity.reason == ARGV[10] then
    activate(entity, '', now)
  end
end
return 1
