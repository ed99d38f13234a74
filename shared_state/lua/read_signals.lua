-- How the models of a domain do: speed, attempts under way, room at the tightest limit. Changes nothing.
--
-- KEYS[1]  the domain
-- ARGV[1]  msgpack {account windows, {{model, {window, ...}}, ...}}
-- Returns  {now ms, {latency, first token, peak, measured ms, in flight, room, requests left, of} for each model}; speeds are texts,
--          empty if unknown; room in millionths of the tightest limit, -1 if the calendar in ARGV[1] is out of date; the requests that
--          the tightest window of requests leaves, of how many, -1 without one
--#include now
--#include windows
--#include bookkeeping

local now = now_ms()

-- What the tightest window of a scope leaves: the share, then the requests, and of how many.
local function room(scope)
  local share, requests, most = 1000000, -1, -1
  for _, w in ipairs(scope.windows) do
    if w.limit > 0 and w.alg ~= SPACING and w.alg ~= CAP then
      local left = math.max(0, w.limit - w.sum - scope.held[w.dim])
      share = math.min(share, math.floor(left * 1000000 / w.limit))
      if w.dim == 1 and w.alg ~= CONCURRENCY and (requests < 0 or left < requests) then
        requests, most = math.floor(left), w.limit
      end
    end
  end
  if scope.stale then return -1, -1, -1 end
  return share, requests, most
end

local asked = cmsgpack.unpack(ARGV[1])
local account_share, account_requests, account_most = room(load_scope(KEYS[1] .. ':win:a', asked[1], now, account_in_flight))
local reply = { now }
for _, m in ipairs(asked[2]) do
  local speed = redis.call('HMGET', KEYS[1] .. ':model:' .. m[1], 'latency', 'ttft', 'peak', 'measured')
  local in_flight = model_in_flight(m[1])
  local share, requests, most = room(load_scope(KEYS[1] .. ':win:m:' .. m[1], m[2], now, in_flight))
  if requests < 0 or (account_requests >= 0 and account_requests < requests) then
    requests, most = account_requests, account_most
  end
  reply[#reply + 1] = { speed[1] or '', speed[2] or '', speed[3] or '', speed[4] or '', in_flight(),
    math.min(share, account_share), requests, most }
end
return reply
