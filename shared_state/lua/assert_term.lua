-- A node tells a server what it may have forgotten. `begin` opens the term if need be and answers with what the server has of this node; the
-- node replays the rest, then `finish` sets what it knows of standbys, marks the node as asserted, and ends the hold after the
-- last one. Idempotent; an assertion that was cut short begins again.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {node, term: begin: the one asserted last, finish: the one that is asserted, epoch, 1}
-- ARGV[2]  name of the domain
-- ARGV[3]  channel
-- ARGV[4]  begin or finish
-- ARGV[5]  finish: msgpack {{last sequence of admissions, of settlements}, epoch of what is known of standbys,
--          {{'model' or 'provider', id, reason, mode, until ms}, ...}, {name: number, ...} of the correction}
-- Returns  {now ms, epoch, note, value, term, end of the hold ms, cause, sequences of admissions, settlements and renewals on record}
--          note 0 go on, 2 another term is in force: begin again, 3 a durable copy may still come: begin again at `value` ms at the latest
--          to finish: {now ms, epoch, note, value, term, end of the hold ms, number of standbys set}
-- Publishes term_opened, state_corrected, model_deactivated, provider_deactivated
--#include now
--#include entities
--#include run
--#include term

local caller, now = read_caller(ARGV[1], {}), now_ms()
home.domain, home.channel, home.node = ARGV[2], ARGV[3], caller.node
local t = read_term(caller, now)
local seq = KEYS[1] .. ':seq'
local mark = tonumber(redis.call('HGET', seq, caller.node .. '\tt') or nil)

local function begin()
  if mark ~= t.term and caller.epoch >= t.epoch then
    t.epoch = caller.epoch + 1
    redis.call('HSET', KEYS[1], 'epoch', int(t.epoch))
  end
  local facts = redis.call('HMGET', KEYS[1], 'wants_copy', 'cause')
  local wait_until = tonumber(facts[1] or 0)
  if wait_until > now then return { now, t.epoch, HELD, wait_until } end
  if facts[1] then redis.call('HDEL', KEYS[1], 'wants_copy') end -- from now on a copy comes too late
  local known = redis.call('HMGET', seq, caller.node .. '\ta', caller.node .. '\ts', caller.node .. '\tl')
  return { now, t.epoch, FINE, t.term, t.term, t.hold, facts[2] or '', tonumber(known[1] or 0), tonumber(known[2] or 0),
    tonumber(known[3] or 0) }
end

-- Only who has seen changes that this server has not may set its states again.
local function set_standbys(epoch, standbys)
  local base = tonumber(redis.call('HGET', KEYS[1], 'base') or 0)
  if epoch <= base then return 0 end
  redis.call('HSET', KEYS[1], 'base', int(epoch))
  local before = t.epoch
  for _, s in ipairs(standbys) do deactivate(load_entity(s[1], s[2]), s[3], s[5], s[4], now) end
  t.epoch = tonumber(redis.call('HGET', KEYS[1], 'epoch'))
  return t.epoch - before
end

local function mark_asserted(sequences)
  for i, kind in ipairs({ '\ta', '\ts' }) do
    local name = caller.node .. kind
    if sequences[i] > tonumber(redis.call('HGET', seq, name) or 0) then redis.call('HSET', seq, name, int(sequences[i])) end
  end
  redis.call('HSET', seq, caller.node .. '\tt', int(t.term))
  if not mark or mark == HAS_LEFT or tonumber(redis.call('HGET', KEYS[1], 'waiting')) <= 0 then return end
  if redis.call('HINCRBY', KEYS[1], 'waiting', -1) == 0 then
    t.hold = 0
    redis.call('HSET', KEYS[1], 'hold', 0)
  end
end

local function finish()
  if caller.term ~= t.term then return { now, t.epoch, UNASSERTED, t.hold } end
  local said = cmsgpack.unpack(ARGV[5])
  if mark == t.term then return { now, t.epoch, FINE, t.term, t.term, t.hold, 0 } end
  local numbers = said[4]
  numbers.states = set_standbys(said[2], said[3])
  mark_asserted(said[1])
  tell('state_corrected', 'domain', home.domain, redis.call('HGET', KEYS[1], 'cause'), 0, t.epoch, now, numbers)
  return { now, t.epoch, FINE, t.term, t.term, t.hold, numbers.states }
end

return ARGV[4] == 'begin' and begin() or finish()
