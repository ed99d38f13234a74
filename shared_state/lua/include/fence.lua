-- Refuses a scheduler that has lost the lead: its fencing token is smaller than one that was seen here.
local function fenced_off(token)
  local seen = tonumber(redis.call('HGET', KEYS[1], 'fence') or 0)
  if token < seen then return true end
  if token > seen then redis.call('HSET', KEYS[1], 'fence', int(token)) end
  return false
end
