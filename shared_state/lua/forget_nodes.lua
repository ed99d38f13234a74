-- Forgets the sequences of nodes that are gone. Idempotent.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  msgpack {node, ...}
-- Returns  number of fields removed, -1 if the token is out of date
--#include now
--#include fence

if fenced_off(tonumber(ARGV[1])) then return -1 end
local removed = 0
for _, node in ipairs(cmsgpack.unpack(ARGV[2])) do
  removed = removed + redis.call('HDEL', KEYS[1] .. ':seq', node .. '\ta', node .. '\ts', node .. '\tl', node .. '\tt')
end
return removed
