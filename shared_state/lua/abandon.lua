-- Books reservations of dead nodes as abandoned; they are charged in full. Idempotent.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  msgpack {model TAB reservation, ...}
-- Returns  number of reservations that were abandoned now, -1 if the token is out of date
--#include now
--#include fence
--#include bookkeeping

if fenced_off(tonumber(ARGV[1])) then return -1 end
local now, tally = now_ms(), new_tally()
local abandoned = abandon(cmsgpack.unpack(ARGV[2]), tally)
save_tally(tally, now)
return abandoned
