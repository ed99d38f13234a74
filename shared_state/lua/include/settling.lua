-- Settles a batch of attempts. The script that includes it declares `now`, `account`, `models`, `policies` and `tally`, and `settle_batch`, which is
-- defined here.
--
-- A group is {index of the model, index of the policy, pool}. An attempt takes STRIDE places in a flat list; what few attempts have to say stands
-- aside: place of the attempt -> {retry after ms, what was learned}.

local OUTCOME_STATS = { STAT.ok, STAT.failed, STAT.neutral, STAT.failed, STAT.failed, STAT.failed, STAT.failed }
local NOT_SENT, ESTIMATED, LEASED, STREAM = 1, 2, 4, 64
local LEASED_KEPT_MS = 3600000
local STRIDE = 10

local function read_attempt(s, flat, at)
  s.reservation, s.outcome, s.tokens_in, s.tokens_out, s.cost = flat[at + 1], flat[at + 3], flat[at + 4], flat[at + 5], flat[at + 6]
  s.latency, s.first_token, s.delay = flat[at + 7], flat[at + 8], flat[at + 10]
  local flags = flat[at + 9]
  if flags == s.flags then return end
  s.flags, s.is_stream, s.is_leased = flags, flagged(flags, STREAM), flagged(flags, LEASED)
  s.is_estimated, s.is_unsent = flagged(flags, ESTIMATED), flagged(flags, NOT_SENT)
end

local count_usage, count_latency
do
  local LATENCY_BOUNDS = { 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000 }
  local function latency_bucket(ms)
    for i = 1, #LATENCY_BOUNDS do
      if ms <= LATENCY_BOUNDS[i] then return i end
    end
    return #LATENCY_BOUNDS + 1
  end

  local ATTEMPTS, TOKENS_IN, TOKENS_OUT, COST = STAT.attempts, STAT.tokens_in, STAT.tokens_out, STAT.cost
  local LATENCY, FIRST_TOKEN = STAT.latency_ms, STAT.first_token_ms

  -- So many attempts of one outcome, and what they used.
  function count_usage(stats, code, times, tokens_in, tokens_out, cost)
    local outcome = OUTCOME_STATS[code]
    stats[ATTEMPTS], stats[outcome] = stats[ATTEMPTS] + times, stats[outcome] + times
    stats[TOKENS_IN], stats[TOKENS_OUT], stats[COST] = stats[TOKENS_IN] + tokens_in, stats[TOKENS_OUT] + tokens_out, stats[COST] + cost
  end

  function count_latency(stats, latency, first_token)
    local bucket = STAT_LATENCIES + latency_bucket(latency)
    stats[bucket], stats[LATENCY], stats[FIRST_TOKEN] = stats[bucket] + 1, stats[LATENCY] + latency, stats[FIRST_TOKEN] + first_token
  end
end

local function count_statistics(model, pool, s, tokens_in, tokens_out, cost)
  local code = s.outcome
  if code == NEUTRAL and s.is_unsent then return end -- given back before anything was tried
  local stats = stats_of(tally, model.entity.id, pool)
  count_usage(stats, code, 1, tokens_in, tokens_out, cost)
  if s.is_estimated then count(stats, STAT.estimated, 1) end
  if code == SUCCESS then
    count_latency(stats, s.latency, s.first_token)
  elseif code == RATE_LIMITED or code == QUOTA then
    count(stats, STAT.limited, 1) -- among the failed
  end
end

-- The books and statistics that a record belongs to, by its tail: nearly all of a batch share one.
local function home_of(model, tail)
  local found = model.homes[tail]
  if not found then
    local pool = read_tail(tail)
    found = { books = books_of(tally, model.entity.id, pool), pool = pool }
    model.homes[tail] = found
  end
  return found
end

-- What is trued up together: reservations of the same quanta of admission and of charge.
local function charge_of(model, admitted, charged_at)
  local from, to = math.floor(admitted / QUANTUM_MS), math.floor(charged_at / QUANTUM_MS)
  local last = model.last_charge
  if last and last.from == from and last.to == to then return last end
  local row = model.charges[from] or {}
  model.charges[from] = row
  row[to] = row[to] or { from = from, to = to, was = { 0, 0, 0, 0, 0 }, is = { 0, 0, 0, 0, 0 }, over = { 0, 0, 0, 0, 0 } }
  model.last_charge = row[to]
  return row[to]
end

local function add_over(over, d, was, is)
  if is > was then over[d] = over[d] + is - was end
end

-- Adds what one attempt used beyond its reservation.
local function add_overs(over, was_in, was_out, was_cost, tokens_in, tokens_out, cost)
  if tokens_in <= was_in and tokens_out <= was_out and cost <= was_cost then return end
  add_over(over, 2, was_in + was_out, tokens_in + tokens_out)
  add_over(over, 3, was_in, tokens_in)
  add_over(over, 4, was_out, tokens_out)
  add_over(over, 5, was_cost, cost)
end

-- Adds so many reservations, and what was used of them.
local function add_charge(q, times, was_in, was_out, was_cost, requests, tokens_in, tokens_out, cost)
  local was, is = q.was, q.is
  was[1], was[3], was[4], was[5] = was[1] + times, was[3] + was_in, was[4] + was_out, was[5] + was_cost
  is[1], is[3], is[4], is[5] = is[1] + requests, is[3] + tokens_in, is[4] + tokens_out, is[5] + cost
end

-- What the call that has just ended used, for the judges of caps and budgets; of an account the cheapest of the batch.
local function use(model, policy, tokens_in, tokens_out, cost)
  local last = model.last_used
  if not last then
    last = { 1, 0, 0, 0, 0 }
    model.last_used = last
  end
  last[2], last[3], last[4], last[5] = tokens_in + tokens_out, tokens_in, tokens_out, cost
  model.last_policy = policy
  if cost < account.least_cost then account.least_cost = cost end
end

local function settle(model, policy, s, packed)
  local admitted, was_in, was_out, was_cost = struct.unpack(RECORD, packed)
  local requests, tokens_in, tokens_out, cost = 1, s.tokens_in, s.tokens_out, s.cost
  if s.is_unsent then
    requests, tokens_in, tokens_out, cost = 0, 0, 0, 0
  else
    if tokens_in < 0 then tokens_in = was_in end
    if tokens_out < 0 then tokens_out = was_out end
    if cost < 0 then cost = was_cost end
    use(model, policy, tokens_in, tokens_out, cost)
  end
  local q = charge_of(model, admitted, math.min(admitted + s.delay, now))
  add_charge(q, 1, was_in, was_out, was_cost, requests, tokens_in, tokens_out, cost)
  add_overs(q.over, was_in, was_out, was_cost, tokens_in, tokens_out, cost)
  judge(model, policy, s)
  local at = home_of(model, packed:sub(RECORD_SIZE + 1))
  count(at.books, 'settled', 1)
  count_statistics(model, at.pool, s, tokens_in, tokens_out, cost)
end

local settle_row
do
  -- Attempts that went well, one behind the other, differ in little but their numbers and are settled as one. Which is the last of those that
  -- begin at the first: of one group and one home, with the same flags, their usage known, nothing learned.
  local function end_of_row(places, flat, closed, aside, first)
    local tail = closed[first]:sub(RECORD_SIZE + 1)
    local group, flags = flat[places[first] + 2], flat[places[first] + 9]
    for i = first, #places do
      local at, packed = places[i], closed[i]
      if not packed or flat[at + 3] ~= SUCCESS or flat[at + 2] ~= group or flat[at + 9] ~= flags or aside[at]
        or flat[at + 4] < 0 or flat[at + 5] < 0 or flat[at + 6] < 0 or packed:sub(RECORD_SIZE + 1) ~= tail then return i - 1 end
    end
    return #places
  end

  -- Charges and counts those at the beginning of a row that belong to one charge; returns the place behind them.
  local function charge_some(model, stats, flat, closed, first, last)
    local places, behind, q = model.places, last + 1, nil
    local all_in, all_out, all_cost, used_in, used_out, used_cost = 0, 0, 0, 0, 0, 0
    for i = first, last do
      local at = places[i]
      local tokens_in, tokens_out, cost = flat[at + 4], flat[at + 5], flat[at + 6]
      local admitted, was_in, was_out, was_cost = struct.unpack(RECORD, closed[i])
      local charge = charge_of(model, admitted, math.min(admitted + flat[at + 10], now))
      if q and charge ~= q then
        behind = i
        break
      end
      q, all_in, all_out, all_cost = charge, all_in + was_in, all_out + was_out, all_cost + was_cost
      used_in, used_out, used_cost = used_in + tokens_in, used_out + tokens_out, used_cost + cost
      add_overs(q.over, was_in, was_out, was_cost, tokens_in, tokens_out, cost)
    end
    add_charge(q, behind - first, all_in, all_out, all_cost, behind - first, used_in, used_out, used_cost)
    count_usage(stats, SUCCESS, behind - first, used_in, used_out, used_cost)
    return behind
  end

  -- Settles what is like the first attempt `s`; returns how many, 0 if there is nothing like it.
  function settle_row(model, policy, s, flat, closed, aside, first)
    local last, next_place = end_of_row(model.places, flat, closed, aside, first), first
    if last <= first then return 0 end
    local home, times = home_of(model, closed[first]:sub(RECORD_SIZE + 1)), last - first + 1
    local stats = stats_of(tally, model.entity.id, home.pool)
    for i = first, last do
      local at = model.places[i]
      if i == next_place then next_place = charge_some(model, stats, flat, closed, i, last) end
      use(model, policy, flat[at + 4], flat[at + 5], flat[at + 6])
      count_latency(stats, flat[at + 7], flat[at + 8])
      measure(model, flat[at + 7], flat[at + 8], s.is_stream, now)
    end
    succeed_plainly(model, policy, times)
    count(home.books, 'settled', times)
    if s.is_estimated then count(stats, STAT.estimated, times) end
    return times
  end
end

-- An attempt that was admitted without Redis: it was never reserved, so a list of its own keeps it from being booked twice.
local function book_leased(model, policy, pool, s)
  if redis.call('HSETNX', KEYS[1] .. ':done', s.reservation, int(now)) == 0 then return false end
  redis.call('PEXPIRE', KEYS[1] .. ':done', LEASED_KEPT_MS)
  judge(model, policy, s)
  local books = books_of(tally, model.entity.id, pool)
  count(books, 'admitted', 1)
  count(books, 'settled', 1)
  local tokens_in, tokens_out, cost = math.max(0, s.tokens_in), math.max(0, s.tokens_out), math.max(0, s.cost)
  use(model, policy, tokens_in, tokens_out, cost)
  count_statistics(model, pool, s, tokens_in, tokens_out, cost)
  return true
end

local new_sums, true_up_all
do
  local function add_all(sums, more)
    for dimension = 1, 5 do sums[dimension] = sums[dimension] + more[dimension] end
  end

  function new_sums() return { was = { 0, 0, 0, 0, 0 }, is = { 0, 0, 0, 0, 0 }, over = { 0, 0, 0, 0, 0 } } end

  local function add_charges(sums, q)
    add_all(sums.was, q.was)
    add_all(sums.is, q.is)
    add_all(sums.over, q.over)
  end

  -- `levels`: what all models have charged so far, if the account has buckets that drain.
  function true_up_all(model, levels)
    local own = model.scope.has_levels and new_sums()
    for from, row in pairs(model.charges) do
      for to, q in pairs(row) do
        q.was[2], q.is[2] = q.was[3] + q.was[4], q.is[3] + q.is[4]
        true_up(model.scope, q.was, q.is, q.over, from * QUANTUM_MS, to * QUANTUM_MS)
        true_up(account, q.was, q.is, q.over, from * QUANTUM_MS, to * QUANTUM_MS)
        if own then add_charges(own, q) end
        if levels then add_charges(levels, q) end
      end
    end
    if own then true_up_levels(model.scope, own.was, own.is, own.over) end
  end
end

-- The attempts of each model: their reservations and their places in the batch.
local function sort_by_model(groups, flat)
  local sorted = {}
  for at = 0, #flat - 1, STRIDE do
    local model = models[groups[flat[at + 2]][1]]
    if not model.reservations then
      model.reservations, model.places, model.homes, model.charges = {}, {}, {}, {}
      sorted[#sorted + 1] = model
    end
    local n = #model.places + 1
    model.reservations[n], model.places[n] = flat[at + 1], at
  end
  return sorted
end

-- Settles one attempt of a model, and those behind it that are like it; returns how many.
local function settle_next(model, groups, flat, closed, i, aside, learned)
  local at, packed = model.places[i], closed[i]
  local s, group, more = model.attempt, groups[flat[at + 2]], aside[at]
  local policy = policies[group[2]]
  read_attempt(s, flat, at)
  if packed and i < #model.places and s.outcome == SUCCESS and not s.is_unsent and has_no_phase(model) then
    local settled = settle_row(model, policy, s, flat, closed, aside, i)
    if settled > 0 then return settled end
  end
  s.retry_after = more and more[1] or 0
  if packed then
    settle(model, policy, s, packed)
    if more then learned[#learned + 1] = more[2] end
    return 1
  end
  return s.is_leased and book_leased(model, policy, group[3], s) and 1 or 0
end

-- Settles the attempts of one model; adds the places of those that changed nothing.
local function settle_model(model, groups, flat, aside, unknown)
  local learned, closed, next_place = {}, close_reservations(model.entity.id, model.reservations), 1
  model.attempt, model.learned = {}, learned
  for i = 1, #model.places do
    if i == next_place then
      local settled = settle_next(model, groups, flat, closed, i, aside, learned)
      if settled == 0 then unknown[#unknown + 1] = model.places[i] / STRIDE + 1 end
      next_place = i + math.max(1, settled)
    end
  end
end

-- Settles a batch {groups, attempts, aside}; returns the places of those that changed nothing.
function settle_batch(batch)
  local unknown, settled = {}, sort_by_model(batch[1], batch[2])
  local aside = {}
  for _, more in ipairs(batch[3]) do aside[(more[1] - 1) * STRIDE] = { more[2], more[3] } end
  local levels = account.has_levels and new_sums()
  account.least_cost = math.huge
  for _, model in ipairs(settled) do
    settle_model(model, batch[1], batch[2], aside, unknown)
    true_up_all(model, levels)
  end
  if levels then true_up_levels(account, levels.was, levels.is, levels.over) end
  for _, model in ipairs(settled) do
    for _, words in ipairs(model.learned) do learn(model.scope, account, model.entity, words, now) end
  end
  alert_budgets(account, 'account', home.domain)
  for _, model in ipairs(settled) do
    if model.last_policy and model.entity.id ~= GATE then model.provider.last_policy = model.last_policy end
    judge_model_spending(model)
    alert_budgets(model.scope, 'model', model.entity.id)
    save_speed(model)
  end
  for _, provider in pairs(providers) do judge_account_spending(provider) end
  return unknown
end
