-- How fast a model answers: moving averages in its own hash, over successful attempts on all nodes.
--
-- latency   whole attempts, ms            ttft  first content of streams, ms
-- peak      first content of any attempt: rises at once, falls slowly      measured  when, ms
--
-- A sample weighs as in a window of the last 50. The longer ago the one before it, the more it weighs: what was measured
-- yesterday gives way to the first answer of today.
local SAMPLE_WEIGHT, MEMORY_MS, PEAK_MEMORY_MS = 2 / 51, 30000, 10000

local function average(old, sample, weight)
  return old and old + weight * (sample - old) or sample
end

-- Takes a sample into the averages of a model; `model.speed` is written by save_speed.
local function measure(model, latency, first_content, is_stream, now)
  local s = model.speed
  if not s then
    local found = redis.call('HMGET', model.entity.key, 'latency', 'ttft', 'peak', 'measured')
    s = { latency = tonumber(found[1]), ttft = tonumber(found[2]), peak = tonumber(found[3]), measured = tonumber(found[4] or now) }
    model.speed = s
  end
  local idle = math.max(0, now - s.measured)
  local weight = 1 - (1 - SAMPLE_WEIGHT) * math.exp(-idle / MEMORY_MS)
  s.latency = average(s.latency, latency, weight)
  if is_stream then s.ttft = average(s.ttft, first_content, weight) end
  local falling = 1 - (1 - SAMPLE_WEIGHT) * math.exp(-idle / PEAK_MEMORY_MS)
  s.peak = math.max(first_content, average(s.peak, first_content, falling))
  s.measured = now
end

local function save_speed(model)
  local s = model.speed
  if not s then return end
  redis.call('HSET', model.entity.key, 'latency', string.format('%.1f', s.latency), 'peak', string.format('%.1f', s.peak),
    'measured', int(s.measured))
  if s.ttft then redis.call('HSET', model.entity.key, 'ttft', string.format('%.1f', s.ttft)) end
end

