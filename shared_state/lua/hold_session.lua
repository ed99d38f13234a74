-- Says which model a session belongs to, and keeps that for a while; moves it if it still belongs where the caller believes.
--
-- KEYS[1]  the session
-- ARGV[1]  the model that the caller believes it belongs to; empty for none
-- ARGV[2]  the model that it should belong to
-- ARGV[3]  life, ms
-- Returns  the model that it belongs to now

local held = redis.call('GET', KEYS[1]) or ''
if held == ARGV[1] then held = ARGV[2] end
redis.call('SET', KEYS[1], held, 'PX', ARGV[3])
return held
