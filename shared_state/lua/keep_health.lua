-- Keeps how available the providers of a domain and their models are, tells what has changed, puts on standby who fails its probes, and
-- brings back who was put there so. Happens once a round: whoever sends it again, or has judged by older records, changes nothing.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  name of the domain
-- ARGV[3]  channel
-- ARGV[4]  round of the records that were judged; 0 for none
-- ARGV[5]  how long the records are kept without newer ones, ms
-- ARGV[6]  msgpack {{'p:' provider or 'm:' model, record, or empty for one that is watched no more}, ...}
-- ARGV[7]  msgpack {{provider, status, availability in thousandths}, ...} of those whose status has changed
-- ARGV[8]  msgpack {{provider, 'out' or 'back'}, ...}
-- ARGV[9]  after how long a provider that was put out may be tried by a request, ms
-- Returns  1; 0 if another round was kept meanwhile; -1 if the token is out of date
-- Publishes provider_health_changed, provider_deactivated, provider_activated
--#include now
--#include fence
--#include entities

if fenced_off(tonumber(ARGV[1])) then return -1 end
local key = KEYS[1] .. ':health'
if (tonumber(redis.call('HGET', key, 'round') or 0)) ~= tonumber(ARGV[4]) then return 0 end
home.domain, home.channel, home.node = ARGV[2], ARGV[3], 'scheduler'
local now = now_ms()
redis.call('HSET', key, 'round', int(tonumber(ARGV[4]) + 1))
for _, row in ipairs(cmsgpack.unpack(ARGV[6])) do
  if row[2] == '' then redis.call('HDEL', key, row[1]) else redis.call('HSET', key, row[1], row[2]) end
end
redis.call('PEXPIRE', key, ARGV[5])

local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
for _, change in ipairs(cmsgpack.unpack(ARGV[7])) do
  tell('provider_health_changed', 'provider', change[1], change[2], 0, epoch, now, { availability_permille = change[3] })
end
for _, move in ipairs(cmsgpack.unpack(ARGV[8])) do
  local entity, mark = load_entity('provider', move[1]), 'o:' .. move[1]
  if move[2] == 'out' and entity.status == 'active' then
    deactivate(entity, 'outage', now + tonumber(ARGV[9]), 'trial', now)
    redis.call('HSET', key, mark, int(now))
  elseif move[2] == 'back' then
    local since = redis.call('HGET', entity.key, 'since')
    local is_ours = since and since == redis.call('HGET', key, mark)
    if is_ours and entity.status == 'standby' and entity.mode == 'trial' and entity.reason == 'outage' then
      activate(entity, '', now)
    end
    redis.call('HDEL', key, mark)
  end
end
return 1
