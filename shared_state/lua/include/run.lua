local known_run -- a server has one run: what is kept here is lost with it

-- Which server this is. Empty where INFO is forbidden: then only a term that went back tells one from another.
local function run_id()
  if known_run then return known_run end
  local info = redis.pcall('INFO', 'server')
  if type(info) ~= 'string' then return '' end
  local _, at = info:find('run_id:', 1, true)
  known_run = at and info:match('^%x+', at + 1) or ''
  return known_run
end

-- Whether it was a replica of another one.
local function was_promoted()
  local info = redis.pcall('INFO', 'replication')
  local before = type(info) == 'string' and info:match('master_replid2:(%x+)') or ''
  return before:find('[^0]') ~= nil
end
