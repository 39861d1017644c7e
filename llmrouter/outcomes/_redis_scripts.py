"""What the outcome log does inside Redis, each script as a whole: nothing happens in between, or half of it.

Keys, under the prefix: ``schema`` (version), ``outcomes`` (stream of records), ``ids`` (request id -> entry of that
stream), ``times`` (entries by time of the request), ``judgements`` (request id -> JSON object: source -> [quality,
weight, time, by, cost], numbers as texts), ``pending`` (requests that judgements wait for, by arrival), ``costs``
(computed again later), ``events`` (stream).

An event holds the judgements of its outcome as they were, so that whoever reads it, whenever, joins the same.
"""

from __future__ import annotations

KEYS = ("schema", "outcomes", "ids", "times", "judgements", "pending", "costs", "events")

_HEAD = """
local schema, outcomes, ids, times, judgements, pending, costs, events = unpack(KEYS)
local version = redis.call('GET', schema)
if version and version ~= ARGV[1] then return redis.error_reply('LOGVERSION ' .. version) end
"""
_MARK = """
if not version then redis.call('SET', schema, ARGV[1]) end
"""
_ENTRY = """
local function place(entry)  -- a text that sorts as the entries do
  local ms, n = string.match(entry, '(%d+)-(%d+)')
  return string.format('%016d-%010d', tonumber(ms), tonumber(n))
end
local function entry_of(place)
  local ms, n = string.match(place, '(%d+)-(%d+)')
  return string.format('%d-%d', tonumber(ms), tonumber(n))
end
local function read(entry)  -- request id, record
  local found = redis.call('XRANGE', outcomes, entry, entry)[1]
  if found then return found[2][2], found[2][4] end
  return false, false
end
local function note(id, entry, judged)
  redis.call('XADD', events, '*', 'r', id, 'e', entry, 'j', judged or '', 'c', redis.call('HGET', costs, id) or '')
end
"""

APPEND = (
    _HEAD
    + _MARK
    + _ENTRY
    + """
for i = 2, #ARGV, 4 do
  local id = ARGV[i]
  if redis.call('HEXISTS', ids, id) == 0 then
    local entry = redis.call('XADD', outcomes, '*', 'r', id, 'o', ARGV[i + 2])
    redis.call('HSET', ids, id, entry)
    redis.call('ZADD', times, ARGV[i + 1], place(entry))
    local judged = redis.call('HGET', judgements, id)
    if judged then redis.call('ZREM', pending, id) end
    if judged or ARGV[i + 3] == '1' then note(id, entry, judged) end
  end
end
return 1
"""
)
"""Arguments: version, then request id, time, record, and whether it is judged (1) for each outcome."""

FEEDBACK = (
    _HEAD
    + _MARK
    + _ENTRY
    + """
local now, expired = ARGV[2], ARGV[3]
local function sweep()
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', pending, '-inf', '(' .. expired, 'LIMIT', 0, 100)) do
    redis.call('HDEL', judgements, old)
    redis.call('ZREM', pending, old)
  end
end
local function judge(id, source, quality, weight, time, by, cost)
  local entry = redis.call('HGET', ids, id)
  if not entry then sweep() end
  local all = cjson.decode(redis.call('HGET', judgements, id) or '{}')
  local before = all[source]
  local same = before and before[1] == quality and before[2] == weight
  if not same and not (before and tonumber(before[3]) > tonumber(time)) then
    all[source] = {quality, weight, time, by, cost}
    local judged = cjson.encode(all)
    redis.call('HSET', judgements, id, judged)
    if entry then note(id, entry, judged) else redis.call('ZADD', pending, now, id) end
  end
  return entry and 1 or 0
end
local known = {}
for i = 4, #ARGV, 7 do
  known[#known + 1] = judge(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], ARGV[i + 6])
end
return known
"""
)
"""Arguments: version, time of arrival, time before which what waits has waited long enough; then request id, source,
quality, weight, time, by and cost of each judgement. Returns of each 1 where the request is known."""

UPDATE_COSTS = (
    _HEAD
    + """
local found = 0
for i = 2, #ARGV, 2 do
  if redis.call('HEXISTS', ids, ARGV[i]) == 1 then
    redis.call('HSET', costs, ARGV[i], ARGV[i + 1])
    found = found + 1
  end
end
return found
"""
)
"""Arguments: version, then request id and JSON [cost, stamp] for each. Returns how many are known."""

GET = (
    _HEAD
    + _ENTRY
    + """
local entry = redis.call('HGET', ids, ARGV[2])
if not entry then return false end
local id, record = read(entry)
return {entry, record, redis.call('HGET', judgements, id), redis.call('HGET', costs, id)}
"""
)
"""Arguments: version, request id."""

SCAN = (
    _HEAD
    + _ENTRY
    + """
local since, last, count = ARGV[2], ARGV[3], tonumber(ARGV[4])
local rank = last ~= '' and redis.call('ZRANK', times, last)
local places
if rank then
  places = redis.call('ZRANGE', times, rank + 1, rank + count)
else
  places = redis.call('ZRANGEBYSCORE', times, since, '+inf', 'LIMIT', 0, count)
end
local page = {}
for i, at in ipairs(places) do
  local id, record = read(entry_of(at))
  page[i] = {at, record, redis.call('HGET', judgements, id), redis.call('HGET', costs, id)}
end
return page
"""
)
"""Arguments: version, least time, place of the last outcome read ("" for none), page size.

Where that last one has been pruned, all before it are gone too: the page begins at its time."""

EVENTS = (
    _HEAD
    + _ENTRY
    + """
local page = {}
for i, event in ipairs(redis.call('XRANGE', events, '(' .. ARGV[2], '+', 'COUNT', ARGV[3])) do
  local id, entry = event[2][2], event[2][4]
  local known, record = false, false
  if redis.call('HGET', ids, id) == entry then known, record = read(entry) end
  page[i] = {event[1], record, event[2][6], event[2][8]}
end
return page
"""
)
"""Arguments: version, event after which to begin, page size. The record of an event is nil where it was pruned."""

PRUNE = (
    _HEAD
    + _ENTRY
    + """
local before, keep, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local count = redis.call('ZCOUNT', times, '-inf', '(' .. before)
if keep then count = math.max(count, redis.call('ZCARD', times) - keep) end
count = math.min(count, limit)
if count == 0 then return 0 end
for _, at in ipairs(redis.call('ZRANGE', times, 0, count - 1)) do
  local entry = entry_of(at)
  local id = read(entry)
  redis.call('XDEL', outcomes, entry)
  redis.call('ZREM', times, at)
  if id then
    redis.call('HDEL', ids, id)
    redis.call('HDEL', judgements, id)
    redis.call('HDEL', costs, id)
  end
end
for _, event in ipairs(redis.call('XRANGE', events, '-', '+', 'COUNT', 2 * limit)) do
  if redis.call('HGET', ids, event[2][2]) == event[2][4] then break end
  redis.call('XDEL', events, event[1])
end
return count
"""
)
"""Arguments: version, time, outcomes to keep ("" for all), how many to remove at most. Returns how many it removed."""
