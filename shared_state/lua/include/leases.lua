-- Leases: amounts that a node has paid in advance for a model, so that it may go on for a while without Redis.
--
-- A lease is one record, node TAB model -> sequence, five amounts; its end stands in a sorted set. Its amounts are held in the scopes
-- of the model and of the account until the node returns them or the lease ends; what may have been used is then charged.
-- What is spent on calls that still run has a record of its own, node TAB model TAB busy: it is held as well, for a call takes its slot
-- until it ends, but no request of the node may be admitted out of it.

local LEASE = '>I8I8I8I8I8I8'

local function lease_name(node, model) return node .. '\t' .. model end

-- The amounts of a lease and its sequence; nil if there is none.
local function read_lease(name)
  local packed = redis.call('HGET', KEYS[1] .. ':lease', name)
  if not packed then return nil end
  local sequence, r, t, i, o, c = struct.unpack(LEASE, packed)
  return { r, t, i, o, c }, sequence
end

local function write_lease(name, sequence, amounts)
  redis.call('HSET', KEYS[1] .. ':lease', name, struct.pack(LEASE, sequence, unpack(amounts)))
end

local function busy_name(name) return name .. '\tbusy' end

local function is_nothing(amounts)
  return amounts[1] == 0 and amounts[2] == 0 and amounts[3] == 0 and amounts[4] == 0 and amounts[5] == 0
end

local function write_busy(name, amounts)
  if is_nothing(amounts) then
    redis.call('HDEL', KEYS[1] .. ':lease', busy_name(name))
  else
    write_lease(busy_name(name), 0, amounts)
  end
end

local function drop_lease(name)
  redis.call('HDEL', KEYS[1] .. ':lease', name, busy_name(name))
  redis.call('ZREM', KEYS[1] .. ':lease:ends', name)
end
