-- Versions of the configuration: KEYS[1] holds `current` (number in force, absent: none was ever pushed), `last` (largest number given out),
-- `proposed` and `ticket` (what nodes are asked about, and by which proposal), and of each version `m:<number>` (JSON) and `t:<number>` (ms);
-- KEYS[1]:documents number -> JSON; KEYS[1]:news the latest events.

local function field(name) return tonumber(redis.call('HGET', KEYS[1], name) or 0) end

local function keep_version(number, told, document, now)
  redis.call('HSET', KEYS[1], 'm:' .. number, told, 't:' .. number, int(now))
  redis.call('HSET', KEYS[1] .. ':documents', number, document)
end

local function drop_version(number)
  redis.call('HDEL', KEYS[1], 'm:' .. number, 't:' .. number)
  redis.call('HDEL', KEYS[1] .. ':documents', number)
end

-- Tells everybody; the reason is the number of the version.
local function announce(event, number, channel, node, now)
  local news = cjson.encode({ type = event, time = now, epoch = 0, domain = 'cluster', kind = 'config',
    id = tostring(number), reason = '', ['until'] = 0, node = node })
  redis.call('LPUSH', KEYS[1] .. ':news', news)
  redis.call('LTRIM', KEYS[1] .. ':news', 0, 99)
  redis.call('PUBLISH', channel, news)
end
