-- When money and caps are spent, and what is noted of a standby that they have brought about, so that it can end when they are raised.
--
-- Field `spent` of the entity: JSON {until of this standby, what the last call used in five dimensions, what it would have waited for without
-- this: until, reason}. It is of this one standby: of one that ends at another time it says nothing.

local MANY_IN_FLIGHT = 2000
local NOTHING = { 0, 0, 0, 0, 0 }

-- What the calls in flight on these models hold.
local function still_reserved(ids)
  local sums = { 0, 0, 0, 0, 0 }
  for id in pairs(ids) do
    for _, packed in ipairs(redis.call('HVALS', KEYS[1] .. ':res:' .. id)) do
      local _, tokens_in, tokens_out, cost = struct.unpack(RECORD, packed)
      local amounts = { 1, tokens_in + tokens_out, tokens_in, tokens_out, cost }
      for dimension = 1, 5 do sums[dimension] = sums[dimension] + amounts[dimension] end
    end
  end
  return sums
end

-- nil if so much is in flight that looking at all of it would keep others waiting; it will be less when money is short.
local function ids_in_flight()
  local members, ids = redis.call('ZRANGEBYSCORE', KEYS[1] .. ':flight', '-inf', '+inf', 'LIMIT', 0, MANY_IN_FLIGHT), {}
  if #members == MANY_IN_FLIGHT then return nil end
  for _, member in ipairs(members) do ids[member:match('^[^\t]*')] = true end
  return ids
end

-- Whether a window puts its entity on standby, and has no room for another call like the last.
local function is_spent(w, last, reserved)
  return w.alert ~= 0 and w.limit > 0 and w.sum - reserved[w.dim] + math.max(1, last[w.dim]) > w.limit
end

-- What is noted of the standby that holds; nil if it is owed to something else.
local function noted_rest(entity)
  local raw = entity.new.spent or redis.call('HGET', entity.key, 'spent')
  if not raw then return nil end
  local noted = cjson.decode(raw)
  if noted[1] ~= entity['until'] then return nil end
  return { last = noted[2], before = noted[3], reason = noted[4] }
end

local function note_rest(entity, last, before)
  entity.new.spent = cjson.encode({ entity['until'], last, before.before, before.reason })
end
