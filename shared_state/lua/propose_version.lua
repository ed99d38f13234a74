-- Keeps a version of the configuration that is not in force yet, and asks all nodes about it. Of several proposals the last one counts.
-- Idempotent by its ticket. Before the first version ever, what ran until now may be kept as number 1, so that there is a way back.
--
-- KEYS[1]  the versions
-- ARGV[1]  the version in force that the proposal is made on; 0: none
-- ARGV[2]  ticket
-- ARGV[3]  what is told about it, JSON
-- ARGV[4]  document, JSON
-- ARGV[5]  channel
-- ARGV[6]  node
-- ARGV[7]  what is told about what ran before, JSON; empty: it cannot be kept
-- ARGV[8]  that document
-- Returns  {1, number, now ms}, or {0, the version that is in force}
-- Publishes config_proposed
--#include now
--#include versions

local now, current = now_ms(), field('current')
if redis.call('HGET', KEYS[1], 'ticket') == ARGV[2] then return { 1, field('proposed'), now } end
if current ~= tonumber(ARGV[1]) then return { 0, current } end
local number = field('last') + 1
if number == 1 and ARGV[7] ~= '' then
  keep_version(1, ARGV[7], ARGV[8], now)
  number = 2
end
local overtaken = field('proposed')
if overtaken > 0 then drop_version(overtaken) end
keep_version(number, ARGV[3], ARGV[4], now)
redis.call('HSET', KEYS[1], 'last', number, 'proposed', number, 'ticket', ARGV[2])
announce('config_proposed', number, ARGV[5], ARGV[6], now)
return { 1, number, now }
