-- Deletes what is left of a model or a provider that the configuration has no more, in a domain that it has. Its rows in the books go with it,
-- for each of them balances. Idempotent.
--
-- KEYS[1]  the domain
-- ARGV[1]  fencing token of the scheduler
-- ARGV[2]  model or provider
-- ARGV[3]  its id
-- Returns  1 it is gone, 0 calls of it are in flight or its books are off, -1 the token is out of date
--#include now
--#include fence

if fenced_off(tonumber(ARGV[1])) then return -1 end
local kind, id = ARGV[2], ARGV[3]
if kind == 'provider' then
  redis.call('ZREM', KEYS[1] .. ':due', 'p:' .. id)
  redis.call('UNLINK', KEYS[1] .. ':provider:' .. id, KEYS[1] .. ':list:' .. id)
  return 1
end
if redis.call('EXISTS', KEYS[1] .. ':res:' .. id) == 1 then return 0 end
local books, fields, balance = redis.call('HGETALL', KEYS[1] .. ':books'), {}, {}
for i = 1, #books, 2 do
  local model, pool, name = books[i]:match('^([^\t]*)\t([^\t]*)\t([^\t]*)$')
  if model == id then
    fields[#fields + 1] = books[i]
    balance[pool] = (balance[pool] or 0) + (name == 'admitted' and 1 or -1) * tonumber(books[i + 1])
  end
end
for _, off in pairs(balance) do
  if off ~= 0 then return 0 end
end
if #fields > 0 then redis.call('HDEL', KEYS[1] .. ':books', unpack(fields)) end
redis.call('ZREM', KEYS[1] .. ':due', 'm:' .. id)
redis.call('HDEL', KEYS[1] .. ':usual', id)
redis.call('UNLINK', KEYS[1] .. ':model:' .. id, KEYS[1] .. ':win:m:' .. id, KEYS[1] .. ':waits:' .. id)
return 1
