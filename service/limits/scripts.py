"""The ledger in Redis: scripts that follow the rules of `service.limits.ledger`.

Time is Redis's own, so that replicas agree. Every subject has a hash (its account, with what each request under way has
reserved) and a sorted set of the requests under way with the moment when they count as lost, because their replica
died. What a lost request had reserved counts as spent.

An `epoch` is drawn when there is none: where it has changed, Redis has lost its data.
"""

from __future__ import annotations

from service.redis_script import Script

_COMMON = r"""
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local t = redis.call('TIME')
  return tonumber(t[1]) + tonumber(t[2]) / 1000000
end

local function text(number) return string.format('%.17g', number) end

local function period_id(kind, now)
  local days = math.floor(now / 86400)
  if kind == 'day' then return string.format('d%d', days) end
  if kind == 'week' then return string.format('w%d', math.floor((days + 3) / 7)) end
  if kind ~= 'month' then return 't' end
  -- Civil date from days; years begin in March here, so that the leap day is their last.
  local z = days + 719468
  local era = math.floor(z / 146097)
  local day = z - era * 146097
  local year = math.floor((day - math.floor(day / 1460) + math.floor(day / 36524) - math.floor(day / 146096)) / 365)
  local month = math.floor((5 * (day - (365 * year + math.floor(year / 4) - math.floor(year / 100))) + 2) / 153)
  month = month < 10 and month + 3 or month - 9
  year = year + era * 400 + (month <= 2 and 1 or 0)
  return string.format('m%d', year * 12 + month - 1)
end

local function epoch_of(key, now)
  local epoch = redis.call('GET', key)
  if not epoch then
    epoch = text(now)
    redis.call('SET', key, epoch)
  end
  return epoch
end

local FIELDS = {'requests_full', 'tokens_full', 'period', 'spent', 'reserved', 'paying', 'largest', 'largest_before'}

local function store(a)
  redis.call('HSET', a.key, 'requests_full', text(a.requests_full), 'tokens_full', text(a.tokens_full),
    'period', a.period, 'spent', text(a.spent), 'reserved', text(a.reserved), 'paying', a.paying,
    'largest', text(a.largest), 'largest_before', text(a.largest_before))
  -- A bucket is full after some minutes; money is remembered for longer than a month.
  redis.call('EXPIRE', a.key, a.period == '' and 7200 or 8640000)
end

-- Take a request off the account; its reservation, or nil if it is not under way.
local function release(a, grant)
  if redis.call('ZREM', a.leases, grant) == 0 then return nil end
  local field = 'held:' .. grant
  local usd = tonumber(redis.call('HGET', a.key, field) or '0')
  redis.call('HDEL', a.key, field)
  if usd > 0 then
    a.paying = a.paying - 1
    a.reserved = a.paying > 0 and a.reserved - usd or 0
  end
  return usd
end

local function load(key, leases, kind, now)
  local v = redis.call('HMGET', key, unpack(FIELDS))
  local a = {key = key, leases = leases,
    requests_full = tonumber(v[1] or '0'), tokens_full = tonumber(v[2] or '0'), period = v[3] or '',
    spent = tonumber(v[4] or '0'), reserved = tonumber(v[5] or '0'), paying = tonumber(v[6] or '0'),
    largest = tonumber(v[7] or '0'), largest_before = tonumber(v[8] or '0'), changed = false}
  if kind ~= '' then
    local period = period_id(kind, now)
    if period ~= a.period then
      if a.period ~= '' then
        a.largest_before = a.largest
        a.largest = 0
        a.spent = 0
      end
      a.period = period
      a.changed = true
    end
  end
  for _, grant in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
    local usd = release(a, grant)
    if usd and usd > 0 then
      a.spent = a.spent + usd
      redis.call('SET', key .. ':lost:' .. grant, text(usd), 'EX', 86400)
    end
    a.changed = true
  end
  return a
end

-- What a replica knows to be spent counts where Redis has lost its data. ARGV from p: US dollars, period, epoch.
local function restore(a, p, epoch)
  local known = tonumber(ARGV[p])
  if known and ARGV[p + 2] ~= epoch and ARGV[p + 1] == a.period and known > a.spent then a.spent = known end
end

local function report(reply, a, held)
  reply[#reply + 1] = text(a.requests_full)
  reply[#reply + 1] = text(a.tokens_full)
  reply[#reply + 1] = redis.call('ZCARD', a.leases)
  reply[#reply + 1] = text(a.spent)
  reply[#reply + 1] = text(a.reserved)
  reply[#reply + 1] = text(held)
end
"""

# KEYS: epoch, void mark, then (account, leases) of each subject.
# ARGV: grant, time or '', lease in seconds, tokens, cost or '', then of each subject: requests, tokens, concurrency and
# budget (each or ''), kind of period, and what the replica knew to be spent, in which period and epoch.
# Reply: 1 or 0, time, epoch, index of the refusing subject, dimension, seconds to wait, then six values a subject.
TAKE = Script(
    _COMMON
    + r"""
local now = clock(ARGV[2])
local epoch = epoch_of(KEYS[1], now)
local grant, tokens, cost = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local accounts, index, dimension, wait = {}, -1, '', 0

local function refuse(i, what, seconds)
  if index < 0 or seconds > wait then index, dimension, wait = i, what, seconds end
end

local function check_budget(i, a, budget)
  if cost == 0 then return 0 end
  local seen = math.max(a.largest, a.largest_before)
  local left = budget - a.spent
  local held
  if seen > 0 then held = math.max(cost or 0, seen)
  elseif cost then held = cost * 10
  else held = math.max(left, 0) end
  if left <= 1e-9 or (cost or 0) > left + 1e-9 then refuse(i, 'budget', 1e9)
  elseif a.paying == 0 then held = math.max(math.min(held, left), cost or 0)
  elseif math.max(a.reserved, a.paying * seen) + held > left + 1e-9 then refuse(i, 'reserved', 1) end
  return held
end

local function check(i, p)
  local a = load(KEYS[1 + 2 * i], KEYS[2 + 2 * i], ARGV[p + 3] ~= '' and ARGV[p + 4] or '', now)
  local rpm, tpm, concurrency = tonumber(ARGV[p]), tonumber(ARGV[p + 1]), tonumber(ARGV[p + 2])
  local budget = tonumber(ARGV[p + 3])
  restore(a, p + 5, epoch)
  if rpm then
    a.requests_next = math.max(a.requests_full, now) + 60 / rpm
    if a.requests_next - now - 60 > 1e-6 then refuse(i, 'requests', a.requests_next - now - 60) end
  end
  if tpm then
    a.tokens_next = math.max(a.tokens_full, now) + tokens * 60 / tpm
    if a.tokens_next - now - 60 > 1e-6 then refuse(i, 'tokens', a.tokens_next - now - 60) end
  end
  if concurrency and redis.call('ZCARD', a.leases) >= concurrency then refuse(i, 'concurrency', 1) end
  a.held = budget and check_budget(i, a, budget) or 0
  return a
end

for i = 1, (#KEYS - 2) / 2 do accounts[i] = check(i, 6 + (i - 1) * 8) end
if redis.call('EXISTS', KEYS[2]) == 1 then refuse(1, 'void', 1e10) end
local reply = {index < 0 and 1 or 0, text(now), epoch, index - 1, dimension, text(wait)}
for _, a in ipairs(accounts) do
  if index < 0 then
    a.requests_full = a.requests_next or a.requests_full
    a.tokens_full = a.tokens_next or a.tokens_full
    redis.call('ZADD', a.leases, now + tonumber(ARGV[3]), grant)
    redis.call('EXPIRE', a.leases, 86400)
    if a.held > 0 then
      a.reserved = a.reserved + a.held
      a.paying = a.paying + 1
      redis.call('HSET', a.key, 'held:' .. grant, text(a.held))
    end
    store(a)
  elseif a.changed then
    store(a)
  end
  report(reply, a, index < 0 and a.held or 0)
end
return reply
"""
)
"""Let a request through and count it for all subjects, or for none."""

# KEYS: epoch, void mark, then (account, leases) of each subject.
# ARGV: grant, time or '', what to do, tokens taken, tokens used or '', cost or '', epoch of the grant, 1 to mark it as
# ended (so that what takes it and comes too late does nothing) or 0, then of each subject: requests, tokens, budget
# (each or ''), kind of period, and what the replica knew, as above.
# Reply: time, epoch, then six values a subject.
END = Script(
    _COMMON
    + r"""
local now = clock(ARGV[2])
local epoch = epoch_of(KEYS[1], now)
local grant, taken = ARGV[1], tonumber(ARGV[4])
local ended = redis.call('EXISTS', KEYS[2]) == 1
local used, cost, cancelled = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[3] ~= 'settle'

local function settle_money(a, held)
  if cancelled then return end
  a.spent = a.spent + (cost or held)
  if cost then a.largest = math.max(a.largest, cost) end
end

-- The request is not under way: it was ended before, or counted as lost, or Redis has lost its data.
local function settle_missing(a)
  local key = a.key .. ':lost:' .. grant
  local lost = tonumber(redis.call('GET', key) or '')
  if lost then
    redis.call('DEL', key)
    a.spent = math.max(a.spent - lost, 0)
    settle_money(a, lost)
  elseif cost and not cancelled and not ended and ARGV[7] ~= epoch then
    if redis.call('SET', a.key .. ':late:' .. grant, 1, 'NX', 'EX', 86400) then settle_money(a, 0) end
  end
end

local function settle_rates(a, rpm, tpm)
  if cancelled and rpm then a.requests_full = a.requests_full - 60 / rpm end
  if not tpm or not (cancelled or used) then return end
  local more = cancelled and -taken or used - taken
  a.tokens_full = (more > 0 and math.max(a.tokens_full, now) or a.tokens_full) + more * 60 / tpm
end

if ARGV[8] == '1' then redis.call('SET', KEYS[2], 1, 'EX', 86400) end
local reply = {text(now), epoch}
for i = 1, (#KEYS - 2) / 2 do
  local p = 9 + (i - 1) * 7
  local budget = tonumber(ARGV[p + 2])
  local a = load(KEYS[1 + 2 * i], KEYS[2 + 2 * i], budget and ARGV[p + 3] or '', now)
  restore(a, p + 4, epoch)
  local held = release(a, grant)
  if held then
    settle_rates(a, tonumber(ARGV[p]), tonumber(ARGV[p + 1]))
    if budget then settle_money(a, held) end
  elseif budget then
    settle_missing(a)
  end
  store(a)
  report(reply, a, 0)
end
return reply
"""
)
"""End a request (``settle``) or take it back (``cancel``), repeatably."""

# KEYS: epoch, void mark, then (account, leases) of each subject.
# ARGV: grant, time or '', lease in seconds, then of each subject: kind of period or '', what it has reserved.
ADOPT = Script(
    _COMMON
    + r"""
local now = clock(ARGV[2])
local ended = redis.call('EXISTS', KEYS[2]) == 1
for i = 1, ended and 0 or (#KEYS - 2) / 2 do
  local p = 4 + (i - 1) * 2
  local a = load(KEYS[1 + 2 * i], KEYS[2 + 2 * i], ARGV[p], now)
  local held = tonumber(ARGV[p + 1])
  if redis.call('ZADD', a.leases, 'NX', now + tonumber(ARGV[3]), ARGV[1]) == 1 and held > 0 then
    a.reserved = a.reserved + held
    a.paying = a.paying + 1
    redis.call('HSET', a.key, 'held:' .. ARGV[1], text(held))
  end
  store(a)
end
return epoch_of(KEYS[1], now)
"""
)
"""Take over a request that was let through while Redis was gone."""

# KEYS: account, leases, mark of this charge, epoch. ARGV: time or '', kind of period, period it was spent in, US
# dollars, largest cost, and what the replica knew, as above.
CHARGE = Script(
    _COMMON
    + r"""
local now = clock(ARGV[1])
if not redis.call('SET', KEYS[3], 1, 'NX', 'EX', 604800) then return 0 end
local a = load(KEYS[1], KEYS[2], ARGV[2], now)
restore(a, 6, epoch_of(KEYS[4], now))
if a.period == ARGV[3] then
  a.spent = a.spent + tonumber(ARGV[4])
  a.largest = math.max(a.largest, tonumber(ARGV[5]))
end
store(a)
return 1
"""
)
"""Add what was spent while Redis was gone, once."""

# KEYS: epoch, unused, then (account, leases) of each subject. ARGV: time or '', then of each subject: kind of period
# or ''. Reply: time, epoch, then six values a subject.
LOOK = Script(
    _COMMON
    + r"""
local now = clock(ARGV[1])
local reply = {text(now), epoch_of(KEYS[1], now)}
for i = 1, (#KEYS - 2) / 2 do
  local a = load(KEYS[1 + 2 * i], KEYS[2 + 2 * i], ARGV[1 + i], now)
  if a.changed then store(a) end
  report(reply, a, 0)
end
return reply
"""
)
"""Return what subjects have used."""

# KEYS: replicas, then leases. ARGV: time or '', this replica, seconds after which a silent one is gone, lease in
# seconds, then a grant for each of the leases. Reply: how many replicas there are.
BEAT = Script(
    _COMMON
    + r"""
local now = clock(ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[3]))
redis.call('EXPIRE', KEYS[1], 3600)
for i = 2, #KEYS do redis.call('ZADD', KEYS[i], 'XX', now + tonumber(ARGV[4]), ARGV[3 + i]) end
return redis.call('ZCARD', KEYS[1])
"""
)
"""Say that this replica lives, and that its requests do."""
