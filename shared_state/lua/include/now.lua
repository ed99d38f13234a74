-- Server time in milliseconds. Every shared decision uses this clock and no other.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Redis prints a double beyond 1e14 with an exponent; counters need all their digits. For whole numbers only.
local function int(x)
  return string.format('%d', x)
end
