-- Keeps how long attempts on some models waited for their first content, and tells what 19 of 20 of the latest stayed below. Idempotent by reservation.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {{model, {reservation, ms, ...}}, ...}
-- Returns  for each model that wait in ms, -1 while fewer than 20 are known
--#include now

local KEPT_MS, MOST, FEWEST, SHARE = 600000, 200, 20, 0.95
local now, reply = now_ms(), {}

local function waits_of(key)
  local waits = {}
  for i, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do waits[i] = tonumber(member:match('\t(%d+)$')) end
  table.sort(waits)
  return waits
end

for i, asked in ipairs(cmsgpack.unpack(ARGV[1])) do
  local key, told = KEYS[1] .. ':waits:' .. asked[1], asked[2]
  for j = 1, #told, 2 do
    redis.call('ZADD', key, 'NX', int(now), told[j] .. '\t' .. int(told[j + 1]))
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', int(now - KEPT_MS))
  redis.call('ZREMRANGEBYRANK', key, 0, -MOST - 1)
  if #told > 0 then redis.call('PEXPIRE', key, KEPT_MS) end
  local waits = waits_of(key)
  reply[i] = #waits >= FEWEST and waits[math.floor(SHARE * #waits) + 1] or -1
end
return reply
