-- How full the windows of a scope are now; changes nothing but what has expired.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {{key of the scope, key of its flight, {window, ...}}, ...}
-- Returns  {now ms, {used, resets at ms, ...} for each scope}
--#include now
--#include windows

local now = now_ms()
local reply = { now }
for _, s in ipairs(cmsgpack.unpack(ARGV[1])) do
  local scope, row = load_scope(s[1], s[3], now, s[2]), {}
  for _, w in ipairs(scope.windows) do
    row[#row + 1] = w.sum
    row[#row + 1] = w.ends or (w.limit > 0 and no_room_until(scope.key, w, 1, now)) or 0
  end
  save_scope(scope)
  reply[#reply + 1] = row
end
return reply
