-- How fast a model answers: moving averages in its own hash, over successful attempts on all nodes.
--
-- latency   whole attempts, ms            ttft  first content of streams, ms
-- peak      first content of any attempt: rises at once, falls slowly      measured  when, ms
--
-- A sample weighs as in a window of the last 50. The longer ago the one before it, the more it weighs: what was measured
-- yesterday gives way to the first answer of today.
local SAMPLE_WEIGHT, MEMORY_MS, PEAK_MEMORY_MS = 2 / 51, 30000, 10000

-- Whoever measures loads the fields latency, ttft, peak and measured with the entity.

-- What a new sample weighs against a memory of that length.
local function weight_of(idle, memory)
  return 1 - (1 - SAMPLE_WEIGHT) * math.exp(-idle / memory)
end

local function begin_measuring(model, now)
  local e = model.entity
  model.speed = { latency = tonumber(e.latency), ttft = tonumber(e.ttft), peak = tonumber(e.peak), measured = tonumber(e.measured) or now }
  return model.speed
end

-- Takes a sample into the averages of a model; `model.speed` is written by save_speed.
local function measure(model, latency, first_content, is_stream, now)
  local s, weight, peak_weight = model.speed or begin_measuring(model, now), SAMPLE_WEIGHT, SAMPLE_WEIGHT
  if now > s.measured then weight, peak_weight = weight_of(now - s.measured, MEMORY_MS), weight_of(now - s.measured, PEAK_MEMORY_MS) end
  local old, ttft, peak = s.latency or latency, s.ttft or first_content, s.peak or first_content
  s.latency, s.measured = old + weight * (latency - old), now
  if is_stream then s.ttft = ttft + weight * (first_content - ttft) end
  s.peak = first_content >= peak and first_content or peak + peak_weight * (first_content - peak)
end

-- Hands the averages to the entity, which is written later.
local function save_speed(model)
  local s, new = model.speed, model.entity.new
  if not s then return end
  new.latency, new.peak, new.measured = string.format('%.1f', s.latency), string.format('%.1f', s.peak), s.measured
  if s.ttft then new.ttft = string.format('%.1f', s.ttft) end
end
