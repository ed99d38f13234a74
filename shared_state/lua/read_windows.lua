-- How full the windows of a scope are now; changes nothing but what has expired.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {{model, or empty for the account, {window, ...}}, ...}
-- Returns  {now ms, for each scope {used, resets at ms of each window, ..., then what leases hold in the five dimensions}}
--#include now
--#include windows
--#include bookkeeping

local now = now_ms()
local reply = { now }
for _, s in ipairs(cmsgpack.unpack(ARGV[1])) do
  local is_account = s[1] == ''
  local key = KEYS[1] .. (is_account and ':win:a' or ':win:m:' .. s[1])
  local scope, row = load_scope(key, s[2], now, is_account and account_in_flight or model_in_flight(s[1])), {}
  for _, w in ipairs(scope.windows) do
    row[#row + 1] = w.sum
    row[#row + 1] = w.ends or (w.limit > 0 and no_room_until(scope, w, 1, now)) or 0
  end
  save_scope(scope)
  for dimension = 1, 5 do row[#row + 1] = scope.held[dimension] end
  reply[#reply + 1] = row
end
return reply
