-- Terms and sequences: what was lost when a server is new, and the order of a node's batches.
--
-- A term is the time of one server (its run id) on the domain's records. Whoever first calls on another server, or on one that knows less
-- than the caller, opens a new term: the records may lack their last moments. Each node then asserts what it knows (assert_term.lua)
-- before anything else of it is applied; until all have, or the hold is over, nobody is plainly admitted.
--
-- Each admit, settle and renew batch carries a sequence of its node for that kind (`a`, `s`, `l`), and the largest one that was applied
-- stands in the hash KEYS[1]:seq, beside the term that the node has asserted (`t`). A batch that is not younger is late or was sent twice: it
-- changes nothing, and what is above the sequence on record is what a server has lost.

local FINE, STALE, UNASSERTED, HELD = 0, 1, 2, 3
local HAS_LEFT = -1
-- A node sees within 1 s that there is a new term, whatever hints are lost (its poll), and asserts in a fraction of that; twice the time.
local HOLD_MS = 2000
-- How long assertions wait for the durable copy when everything is gone: the scheduler looks several times a second.
local COPY_WAIT_MS = 1000
-- A long journal takes longer than that to say: as long as it goes on the hold does, but not for ever.
local REPLAY_MS, LONGEST_HOLD_MS = 1000, 10000

-- Who calls: {node, sequence, the admit sequence up to which it has given its admissions up, the term it has asserted (0: new here),
-- the largest epoch it knows, 1 if this is a replay of what was lost}.
local function read_caller(packed, kind)
  local c = cmsgpack.unpack(packed)
  return { node = c[1], kind = kind, sequence = c[2], void = c[3], term = c[4], epoch = c[5], is_replay = c[6] == 1 }
end

local function count_unasserted()
  local marks, count = redis.call('HGETALL', KEYS[1] .. ':seq'), 0
  for i = 1, #marks, 2 do
    if marks[i]:sub(-2) == '\tt' and tonumber(marks[i + 1]) ~= HAS_LEFT then count = count + 1 end
  end
  return count
end

-- Whoever comes with an older term to a domain that says to be in its first proves that it was emptied in between.
local function was_emptied(t, caller) return t.cause == 'first' and caller.term > 0 and caller.term < t.term end

local function cause_of(t, caller, run)
  if t.term == 0 and caller.term == 0 then return 'first' end
  if t.term == 0 or was_emptied(t, caller) then return 'empty' end
  if t.run == run or was_promoted() then return 'failover' end
  return 'restart'
end

-- The epoch goes beyond what anybody has seen, so that all nodes read the domain again. The first term of a domain holds up nobody.
local function open_term(t, caller, run, now)
  local has_nothing = t.term == 0
  t.cause = cause_of(t, caller, run)
  t.base = t.epoch
  t.term = math.max(t.term + 1, caller.term + 1, now)
  t.waiting = t.cause == 'empty' and -1 or count_unasserted()
  t.hold = (t.cause == 'first' or t.waiting == 0) and 0 or now + HOLD_MS
  if t.cause ~= 'first' or caller.epoch > t.epoch then t.epoch = math.max(t.epoch, caller.epoch) + 1 end
  redis.call('HSET', KEYS[1], 'run', run, 'term', int(t.term), 'hold', int(t.hold), 'epoch', int(t.epoch), 'cause', t.cause,
    'base', int(t.base), 'waiting', int(t.waiting))
  if t.cause == 'empty' and has_nothing then
    redis.call('HSET', KEYS[1], 'wants_copy', int(now + COPY_WAIT_MS))
  end
  if t.cause ~= 'first' then tell('term_opened', 'domain', home.domain, t.cause, t.hold, t.epoch, now) end
end

-- The term that is in force now; opened if need be.
local function read_term(caller, now)
  local d, run = redis.call('HMGET', KEYS[1], 'run', 'term', 'hold', 'epoch', 'cause'), run_id()
  local t = { run = d[1] or '', term = tonumber(d[2] or 0), hold = tonumber(d[3] or 0), epoch = tonumber(d[4] or 0), cause = d[5] or '' }
  if t.term == 0 or t.run ~= run or caller.term > t.term or was_emptied(t, caller) then open_term(t, caller, run, now) end
  return t
end

-- A term is named after the moment at which it began.
local function prolong_hold(t, now)
  local hold = math.min(now + REPLAY_MS, t.term + LONGEST_HOLD_MS)
  if t.hold > now and hold > t.hold then redis.call('HSET', KEYS[1], 'hold', int(hold)) end
end

-- Whether the batch may be applied: a note and what belongs to it. FINE: the term; STALE: the sequence on record;
-- UNASSERTED and HELD: the end of the hold.
local function enter(caller, now)
  local t = read_term(caller, now)
  if caller.term ~= 0 and caller.term ~= t.term then return UNASSERTED, math.max(t.hold, now) end
  local marks = redis.call('HMGET', KEYS[1] .. ':seq', caller.node .. '\t' .. caller.kind, caller.node .. '\tt')
  local last = tonumber(marks[1] or 0)
  if caller.sequence <= last then return STALE, last end
  if caller.is_replay then prolong_hold(t, now) end
  caller.is_held = t.hold > now and not caller.is_replay
  if caller.is_held and caller.kind == 'a' then return HELD, t.hold end
  if not caller.is_replay and tonumber(marks[2] or 0) ~= t.term then caller.mark = t.term end
  return FINE, t.term
end

-- Records the batch as applied. What the node gave up must not be applied later: a batch that is still on its way counts as seen.
local function keep_sequence(caller)
  local key = KEYS[1] .. ':seq'
  redis.call('HSET', key, caller.node .. '\t' .. caller.kind, int(caller.sequence))
  if caller.mark then redis.call('HSET', key, caller.node .. '\tt', int(caller.mark)) end
  if caller.void > 0 and caller.void > tonumber(redis.call('HGET', key, caller.node .. '\ta') or 0) then
    redis.call('HSET', key, caller.node .. '\ta', int(caller.void))
  end
end
