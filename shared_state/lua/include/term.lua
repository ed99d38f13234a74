-- Order of a node's batches. Each admit, settle and renew batch carries a sequence of its node for that kind (`a`, `s`, `l`), and the
-- largest one that was applied stands in the hash KEYS[1]:seq. A batch that is not younger is late or was sent twice: it changes nothing.

local FINE, STALE = 0, 1

-- Who calls: {node, sequence, the admit sequence up to which the node has given its admissions up}.
local function read_caller(packed, kind)
  local c = cmsgpack.unpack(packed)
  return { node = c[1], kind = kind, sequence = c[2], void = c[3] }
end

-- Whether the batch may be applied: a note, and what belongs to it: with STALE the sequence on record.
local function enter(caller)
  local last = tonumber(redis.call('HGET', KEYS[1] .. ':seq', caller.node .. '\t' .. caller.kind) or 0)
  if caller.sequence <= last then return STALE, last end
  return FINE, 0
end

-- Records the batch as applied. What the node gave up must not be applied later: a batch that is still on its way counts as seen.
local function keep_sequence(caller)
  local key = KEYS[1] .. ':seq'
  redis.call('HSET', key, caller.node .. '\t' .. caller.kind, int(caller.sequence))
  if caller.void > 0 and caller.void > tonumber(redis.call('HGET', key, caller.node .. '\ta') or 0) then
    redis.call('HSET', key, caller.node .. '\ta', int(caller.void))
  end
end
