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

-- Who calls: {node, the term it has asserted (0: new here), the largest epoch it knows, 1 if this is a replay of what was lost, the admit
-- sequence up to which it has given its admissions up, then a sequence for each kind of batch that it brings, 0 if there is none}.
local function read_caller(packed, kinds)
  local c = cmsgpack.unpack(packed)
  local caller = { node = c[1], term = c[2], epoch = c[3], is_replay = c[4] == 1, void = c[5] or 0, parts = {} }
  for i, kind in ipairs(kinds) do caller.parts[i] = { kind = kind, sequence = c[5 + i] } end
  return caller
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
  local d, run = redis.call('HMGET', KEYS[1], 'run', 'term', 'hold', 'epoch', 'cause', 'minute'), run_id()
  local t = { run = d[1] or '', term = tonumber(d[2] or 0), hold = tonumber(d[3] or 0), epoch = tonumber(d[4] or 0), cause = d[5] or '' }
  if t.term == 0 or t.run ~= run or caller.term > t.term or was_emptied(t, caller) then open_term(t, caller, run, now) end
  home.epoch, home.minute = t.epoch, tonumber(d[6] or 0)
  return t
end

-- A term is named after the moment at which it began.
local function prolong_hold(t, now)
  local hold = math.min(now + REPLAY_MS, t.term + LONGEST_HOLD_MS)
  if t.hold > now and hold > t.hold then redis.call('HSET', KEYS[1], 'hold', int(hold)) end
end

local function judge_part(part, last, caller, t)
  if part.sequence == 0 then return FINE, t.term end
  if part.sequence <= last then return STALE, last end
  if caller.is_held and part.kind == 'a' then return HELD, t.hold end
  part.is_open = true
  return FINE, t.term
end

-- Whether the batches may be applied: a note on all of them, FINE or UNASSERTED with the end of the hold, and on each a note and what belongs
-- to it. FINE: the term; STALE: the sequence on record; HELD: the end of the hold. `is_open`: it is to be applied.
local function enter(caller, now)
  local t = read_term(caller, now)
  if caller.term ~= 0 and caller.term ~= t.term then return UNASSERTED, math.max(t.hold, now) end
  caller.is_held = t.hold > now and not caller.is_replay
  local names = { caller.node .. '\tt', caller.node .. '\ta' }
  for i, part in ipairs(caller.parts) do names[i + 2] = caller.node .. '\t' .. part.kind end
  local marks = redis.call('HMGET', KEYS[1] .. ':seq', unpack(names))
  caller.admitted = tonumber(marks[2] or 0)
  for i, part in ipairs(caller.parts) do
    part.note, part.value = judge_part(part, tonumber(marks[i + 2] or 0), caller, t)
    if part.is_open and caller.is_replay then prolong_hold(t, now) end
  end
  if not caller.is_replay and tonumber(marks[1] or 0) ~= t.term then caller.mark = t.term end
  return FINE, t.term
end

-- Records what is open as applied. What the node gave up must not be applied later: a batch that is still on its way counts as seen.
local function keep_sequences(caller)
  local fields, admitted = {}, caller.admitted
  for _, part in ipairs(caller.parts) do
    if part.is_open and part.kind == 'a' then
      admitted = math.max(admitted, part.sequence)
    elseif part.is_open then
      fields[#fields + 1] = caller.node .. '\t' .. part.kind
      fields[#fields + 1] = int(part.sequence)
    end
  end
  admitted = math.max(admitted, caller.void)
  if admitted > caller.admitted then
    fields[#fields + 1] = caller.node .. '\ta'
    fields[#fields + 1] = int(admitted)
  end
  if caller.mark then
    fields[#fields + 1] = caller.node .. '\tt'
    fields[#fields + 1] = int(caller.mark)
  end
  if #fields > 0 then redis.call('HSET', KEYS[1] .. ':seq', unpack(fields)) end
end
