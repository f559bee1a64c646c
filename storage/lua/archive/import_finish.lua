-- import_finish: make an imported conversation live; all or nothing.
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, fingerprint, retention s, first segment's number, number of segments, length of each…,
--       number of facts, field, value…, number of branches, name, line…,
--       number of segments that responses read, segment, how far…
-- Returns {'ok', facts (flat field/value list)}; {'conflict'} when something is missing: then nothing was written.
-- Of a deleted conversation nothing is left but the segments that its responses and their continuations read.

local owner, retention, base = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
if not is_importing(owner, ARGV[2]) then
  return { 'conflict' }
end
local size = tonumber(ARGV[5])
for i = 0, size - 1 do
  if redis.call('LLEN', segment_key(base + i)) ~= tonumber(ARGV[6 + i]) then
    return { 'conflict' }
  end
end

local seconds, milliseconds = now()
-- What expired by itself is kept from now on only as far as somebody says so.
for segment = 0, base - 1 do
  redis.call('DEL', branch_key(segment), holders_key(segment))
  local left = redis.call('PTTL', segment_key(segment))
  if left > 0 then
    note_reach(segment, redis.call('LLEN', segment_key(segment)), milliseconds + left)
  end
end
redis.call('DEL', KEYS[2], KEYS[3])

local latest = { created_at = seconds, updated_at = milliseconds }
local at = 6 + size
for i = at + 1, at + tonumber(ARGV[at]) * 2, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  if latest[field] then
    value = string.format('%.0f', math.min(tonumber(value), latest[field]))
  end
  redis.call('HSET', KEYS[2], field, value)
end
at = at + 1 + tonumber(ARGV[at]) * 2
for i = at + 1, at + tonumber(ARGV[at]) * 2, 2 do
  redis.call('ZADD', KEYS[3], ARGV[i + 1], ARGV[i])
end
at = at + 1 + tonumber(ARGV[at]) * 2
for i = at + 1, at + tonumber(ARGV[at]) * 2, 2 do
  note_reach(ARGV[i], tonumber(ARGV[i + 1]), milliseconds + retention * 1000)
end
redis.call('HSET', KEYS[1], 'owner', owner, 'kept', 1)
redis.call('HDEL', KEYS[1], 'importing', 'import_base', 'import_size')

for _, key in ipairs({ KEYS[1], KEYS[4], BASE .. 'tombstones', BASE .. 'journal' }) do
  redis.call('PERSIST', key)
end
for segment = base, base + size - 1 do
  if redis.call('EXISTS', branch_key(segment), holders_key(segment)) > 0 then
    for _, key in ipairs({ segment_key(segment), branch_key(segment), holders_key(segment) }) do
      redis.call('PERSIST', key)
    end
  else
    redis.call('EXPIRE', segment_key(segment), retention)
  end
end
local low, high = position(base, 0), '(' .. position(base + size, 0)
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', BASE .. 'journal', low, high)) do
  local key = BASE .. 'response:' .. string.match(entry, '^[^\31]*')
  if redis.call('HDEL', key, 'importing') == 1 then
    redis.call('EXPIRE', key, retention)
  end
end
return { 'ok', redis.call('HGETALL', KEYS[2]) }
