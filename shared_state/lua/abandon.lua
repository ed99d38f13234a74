-- Books reservations of dead nodes as abandoned; they are charged in full. Idempotent.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  msgpack {model TAB reservation, ...}
-- ARGV[3]  name of the domain
-- ARGV[4]  channel
-- Returns  number of reservations that were abandoned now, -1 if the token is out of date
-- Publishes model_trial_over, provider_trial_over
--#include now
--#include fence
--#include entities
--#include bookkeeping

if fenced_off(tonumber(ARGV[1])) then return -1 end
local now, tally = now_ms(), new_tally()
home.domain, home.channel, home.node = ARGV[3], ARGV[4], 'scheduler'
local abandoned = abandon(cmsgpack.unpack(ARGV[2]), tally)
for _, r in ipairs(abandoned) do
  release_trial(load_entity('model', r.model), r.member, now)
  release_trial(load_entity('provider', r.provider), r.member, now)
end
save_tally(tally, now)
return #abandoned
