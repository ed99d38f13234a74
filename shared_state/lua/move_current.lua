-- Moves a sticky pool's pointer, if it still points where the caller believes.
--
-- KEYS[1]  the pointer
-- ARGV[1]  the model that the caller believes it points at; empty for none
-- ARGV[2]  the model to point at
-- Returns  the model that it points at now

local current = redis.call('GET', KEYS[1]) or ''
if current == ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[2])
  return ARGV[2]
end
return current
