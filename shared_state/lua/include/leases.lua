-- Leases: amounts that a node has paid in advance for a model, so that it may go on for a while without Redis.
--
-- A lease is one record, node TAB model -> sequence, five amounts; its end stands in a sorted set. Its amounts are held in the scopes
-- of the model and of the account until the node returns them or the lease ends; what may have been used is then charged.

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

local function drop_lease(name)
  redis.call('HDEL', KEYS[1] .. ':lease', name)
  redis.call('ZREM', KEYS[1] .. ':lease:ends', name)
end
