-- Books what a node has sent, and gives it its part of the retries that the fleet may still make.
--
-- Over any ten seconds retries are at most a share of the requests; or, if that is more, as many as there were good answers and a few, but no
-- more than so many a second. Nodes make retries only out of parts that were given out here, and what was given is spoken for
-- until it is reported; where a node dies with a part it is taken as spent. So the sum holds whoever joins, leaves or dies.
--
-- KEYS[1]  hash: q:<second> requests, t:<second> retries, g:<second> good answers, n:<node> "sequence until given"
-- ARGV[1]  node
-- ARGV[2]  sequence of the report; one that was booked is not booked again
-- ARGV[3]  requests since the last report
-- ARGV[4]  retries since the last report
-- ARGV[5]  good answers since the last report
-- ARGV[6]  how much of its last part the node keeps and may be spending now; -1 if it wants none any more
-- ARGV[7]  most retries a request
-- ARGV[8]  most retries a second that good answers may pay for
-- ARGV[9]  how many of those need no good answer
-- ARGV[10]  number of nodes
-- ARGV[11]  life of the part, ms
-- Returns  number of retries that the node may make until its next report
--#include now

local SECONDS = 10
local KEPT_MS = 60000
local now = now_ms()
local second = math.floor(now / 1000)
local sums, spoken, booked, held = { q = 0, t = 0, g = 0 }, 0, -1, 0

local function book(kind, amount, at)
  if amount <= 0 or at <= second - SECONDS then return end
  sums[kind] = sums[kind] + amount
  redis.call('HINCRBY', KEYS[1], kind .. ':' .. int(at), int(amount))
end

-- What a node was given; nothing if it is over. A part that expired unreported may have been spent up to its end.
local function given_to(field, entry)
  local sequence, ends, given = string.match(entry, '^(%d+) (%d+) (%d+)$')
  ends, given = tonumber(ends), tonumber(given)
  if ends > now then return tonumber(sequence), given end
  if ends + KEPT_MS < now then
    redis.call('HDEL', KEYS[1], field)
  elseif given > 0 then
    book('t', given, math.floor(ends / 1000))
    redis.call('HSET', KEYS[1], field, sequence .. ' ' .. int(ends) .. ' 0')
  end
  return tonumber(sequence), 0
end

local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local kind, name = string.sub(all[i], 1, 1), string.sub(all[i], 3)
  if kind == 'n' then
    local sequence, given = given_to(all[i], all[i + 1])
    if name == ARGV[1] then booked, held = sequence, given else spoken = spoken + given end
  elseif tonumber(name) <= second - SECONDS then
    redis.call('HDEL', KEYS[1], all[i])
  else
    sums[kind] = sums[kind] + tonumber(all[i + 1])
  end
end
if tonumber(ARGV[2]) > booked then
  book('q', tonumber(ARGV[3]), second)
  book('t', tonumber(ARGV[4]), second)
  book('g', tonumber(ARGV[5]), second)
end
local paid = math.min(tonumber(ARGV[8]) * SECONDS, tonumber(ARGV[9]) + sums.g)
local left = math.max(tonumber(ARGV[7]) * sums.q, paid) - sums.t
local given, kept = 0, tonumber(ARGV[6])
if kept >= 0 then
  -- One part is left for a node that nobody knows of yet.
  given = math.max(0, math.floor(math.min(left - spoken, math.ceil(left / (tonumber(ARGV[10]) + 1)))), math.min(kept, held))
end
local entry = ARGV[2] .. ' ' .. int(now + tonumber(ARGV[11])) .. ' ' .. int(given)
redis.call('HSET', KEYS[1], 'n:' .. ARGV[1], entry)
redis.call('PEXPIRE', KEYS[1], KEPT_MS)
return given
