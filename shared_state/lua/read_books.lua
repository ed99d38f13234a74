-- Books, reservations and their expiries of a domain, consistent at one moment. For audits; its cost grows with what is in flight.
--
-- KEYS[1]  the domain
-- Returns  {now ms, {field, count, ...}, {packed record of each reservation, ...}, number in the set of expiries}
--#include now

return { now_ms(), redis.call('HGETALL', KEYS[1] .. ':books'), redis.call('HVALS', KEYS[1] .. ':res'),
  redis.call('ZCARD', KEYS[1] .. ':flight') }
