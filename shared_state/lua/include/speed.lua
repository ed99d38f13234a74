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

-- Whoever measures loads the fields latency, ttft, peak and measured with the entity.

-- What a new sample weighs against a memory of that length.
local function weight_of(idle, memory)
  return idle == 0 and SAMPLE_WEIGHT or 1 - (1 - SAMPLE_WEIGHT) * math.exp(-idle / memory)
end

-- Takes a sample into the averages of a model; `model.speed` is written by save_speed.
local function measure(model, latency, first_content, is_stream, now)
  local s = model.speed
  if not s then
    local e = model.entity
    s = { latency = tonumber(e.latency), ttft = tonumber(e.ttft), peak = tonumber(e.peak), measured = tonumber(e.measured) or now }
    model.speed = s
  end
  local idle = math.max(0, now - s.measured)
  local weight = weight_of(idle, MEMORY_MS)
  s.latency = average(s.latency, latency, weight)
  if is_stream then s.ttft = average(s.ttft, first_content, weight) end
  s.peak = math.max(first_content, average(s.peak, first_content, weight_of(idle, PEAK_MEMORY_MS)))
  s.measured = now
end

-- Hands the averages to the entity, which is written later.
local function save_speed(model)
  local s, new = model.speed, model.entity.new
  if not s then return end
  new.latency, new.peak, new.measured = string.format('%.1f', s.latency), string.format('%.1f', s.peak), s.measured
  if s.ttft then new.ttft = string.format('%.1f', s.ttft) end
end
