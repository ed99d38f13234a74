-- Books what a node has sent, and gives it its part of the retries that the fleet may still make.
--
-- Over any ten seconds retries are at most a share of the requests, or so many a second if that is more. A part that is given out is
-- spoken for until it is reported or expires, and so is the share of the floor that a silent node may spend by itself; so nodes together
-- spend hardly more than is left.
--
-- KEYS[1]  hash: q:<second> requests, t:<second> retries, n:<node> "sequence until given"
-- ARGV[1]  node
-- ARGV[2]  sequence of the report; one that was booked is not booked again
-- ARGV[3]  requests since the last report
-- ARGV[4]  retries since the last report
-- ARGV[5]  most retries a request
-- ARGV[6]  retries a second that are always allowed
-- ARGV[7]  number of nodes
-- ARGV[8]  life of the part, ms
-- Returns  number of retries that the node may make until its next report
--#include now

local SECONDS = 10
local KEPT_MS = 60000
local now = now_ms()
local second = math.floor(now / 1000)
local requests, retries, spoken, booked, silent = 0, 0, 0, -1, tonumber(ARGV[7]) - 1
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local kind, name = string.sub(all[i], 1, 1), string.sub(all[i], 3)
  if kind == 'n' then
    local sequence, ends, given = string.match(all[i + 1], '^(%d+) (%d+) (%d+)$')
    if name == ARGV[1] then
      booked = tonumber(sequence)
    elseif tonumber(ends) > now then
      spoken, silent = spoken + tonumber(given), silent - 1
    elseif tonumber(ends) + KEPT_MS < now then
      redis.call('HDEL', KEYS[1], all[i])
    end
  elseif tonumber(name) <= second - SECONDS then
    redis.call('HDEL', KEYS[1], all[i])
  elseif kind == 'q' then
    requests = requests + tonumber(all[i + 1])
  else
    retries = retries + tonumber(all[i + 1])
  end
end
if tonumber(ARGV[2]) > booked then
  requests, retries = requests + tonumber(ARGV[3]), retries + tonumber(ARGV[4])
  if ARGV[3] ~= '0' then redis.call('HINCRBY', KEYS[1], 'q:' .. int(second), ARGV[3]) end
  if ARGV[4] ~= '0' then redis.call('HINCRBY', KEYS[1], 't:' .. int(second), ARGV[4]) end
end
spoken = spoken + math.max(0, silent) * tonumber(ARGV[6]) * SECONDS / tonumber(ARGV[7])
local left = math.max(tonumber(ARGV[5]) * requests, tonumber(ARGV[6]) * SECONDS) - retries
local given = math.max(0, math.floor(math.min(left - spoken, math.ceil(left / tonumber(ARGV[7])))))
-- A node that did not know of the others yet may hold all of it. A quarter of a node's part of the floor is never spoken for, as long as
-- anything is left: the first request after a failure must be served.
given = math.max(given, math.floor(math.min(left, tonumber(ARGV[6]) * SECONDS / tonumber(ARGV[7]) / 4)))
local entry = ARGV[2] .. ' ' .. int(now + tonumber(ARGV[8])) .. ' ' .. int(given)
redis.call('HSET', KEYS[1], 'n:' .. ARGV[1], entry)
redis.call('PEXPIRE', KEYS[1], KEPT_MS)
return given
