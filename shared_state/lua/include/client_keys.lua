-- Client keys: KEYS[1] holds id -> record, with :digests behind it digest -> id, with :revoked id -> unix ms, with :news the latest events.

-- Raises the version that nodes compare once a second, and tells everybody at once.
local function announce(event, id, channel, node, now)
  redis.call('INCR', KEYS[1] .. ':version')
  local news = cjson.encode({ type = event, time = now, epoch = 0, domain = 'key:' .. id, kind = 'key',
    id = id, reason = '', ['until'] = 0, node = node })
  redis.call('LPUSH', KEYS[1] .. ':news', news)
  redis.call('LTRIM', KEYS[1] .. ':news', 0, 99)
  redis.call('PUBLISH', channel, news)
end
