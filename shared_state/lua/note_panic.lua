-- What a node finds of a pool that it has asked on faith. The first that finds the pool in panic says so to everybody; the end is told once it
-- has lasted, so that a node whose view is a moment behind does not end it, or begin it again. What was asked is counted once, by the report's sequence.
--
-- KEYS[1]  the domain of the pool's gate
-- ARGV[1]  name of that domain
-- ARGV[2]  channel
-- ARGV[3]  node
-- ARGV[4]  sequence of its report
-- ARGV[5]  the pool
-- ARGV[6]  1 in panic, 0 not
-- ARGV[7]  members that are well
-- ARGV[8]  members that count: neither ordered away nor kept away by a limit
-- ARGV[9]  requests on faith since its last report
-- ARGV[10]  how many of them were answered
-- ARGV[11]  ms for which an end must have lasted
-- ARGV[12]  ms after which a panic that nobody reports is forgotten
-- Returns  1 while the panic lasts, 0 if there is none
-- Publishes pool_panic, pool_panic_over
--#include now
--#include entities

home.domain, home.channel, home.node = ARGV[1], ARGV[2], ARGV[3]
local key, pool, is_on, well, members = KEYS[1] .. ':panic', ARGV[5], ARGV[6] == '1', tonumber(ARGV[7]), tonumber(ARGV[8])
local said = 'n:' .. home.node
local now, known = now_ms(), redis.call('HMGET', key, 'since', 'over', said)
local since, over = tonumber(known[1]), tonumber(known[2])

local function say(event, numbers)
  local epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch') or 0)
  tell(event, 'pool', pool, string.format('%d of %d well', well, members), 0, epoch, now, numbers)
end

if not since then
  if not is_on then return 0 end
  redis.call('HSET', key, 'since', int(now), 'asked', 0, 'answered', 0)
  say('pool_panic', { well = well, members = members })
end
if tonumber(ARGV[4]) > tonumber(known[3] or 0) then
  redis.call('HSET', key, said, ARGV[4])
  redis.call('HINCRBY', key, 'asked', ARGV[9])
  redis.call('HINCRBY', key, 'answered', ARGV[10])
end
if is_on then
  redis.call('HDEL', key, 'over')
elseif not over then
  redis.call('HSET', key, 'over', int(now))
elseif now - over >= tonumber(ARGV[11]) then
  local sums = redis.call('HMGET', key, 'asked', 'answered')
  say('pool_panic_over', { well = well, members = members, lasted_ms = over - since, asked = tonumber(sums[1]), answered = tonumber(sums[2]) })
  redis.call('DEL', key)
  return 0
end
redis.call('PEXPIRE', key, ARGV[12])
return 1
