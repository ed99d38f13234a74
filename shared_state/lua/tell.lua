-- Tells everybody of something that has changed no state, and keeps it among the news.
--
-- KEYS[1]  the domain
-- ARGV[1]  name of the domain
-- ARGV[2]  channel
-- ARGV[3]  node that tells it
-- ARGV[4]  type of the event
-- ARGV[5]  model or provider
-- ARGV[6]  id
-- ARGV[7]  reason
-- Returns  the domain's epoch, which stays as it was
-- Publishes the event
--#include now
--#include entities

home.domain, home.channel, home.node = ARGV[1], ARGV[2], ARGV[3]
local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
tell(ARGV[4], ARGV[5], ARGV[6], ARGV[7], 0, epoch, now_ms())
return epoch
