-- import_finish: make an imported conversation live; all or nothing.
-- needs: import
-- prolongs: whole
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, fingerprint, retention s, first segment's number, number of segments, length of each…,
--       number of facts, field, value…, number of branches, name, line…,
--       number of segments that responses read, segment, how far…
-- Returns {'ok', facts (flat field/value list)}; {'conflict'} when something is missing: then nothing was written.
-- Of a deleted conversation nothing is left but the segments that its responses and their continuations read.

local conversation_key, branches_key, index_key = KEYS[2], KEYS[3], KEYS[4]
local owner, fingerprint, retention, base = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local lengths_at = 5

if not is_importing(owner, fingerprint) then
  return { 'conflict' }
end
local first, last, facts_at = list_at(lengths_at, 1)
local size = last - first + 1
for i = first, last do
  if redis.call('LLEN', segment_key(base + i - first)) ~= tonumber(ARGV[i]) then
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
redis.call('DEL', conversation_key, branches_key)

local latest = { created_at = seconds, updated_at = milliseconds }
local names_at, reach_at
first, last, names_at = list_at(facts_at, 2)
for i = first, last, 2 do
  local field, value = ARGV[i], ARGV[i + 1]
  if latest[field] then
    value = string.format('%.0f', math.min(tonumber(value), latest[field]))
  end
  redis.call('HSET', conversation_key, field, value)
end
first, last, reach_at = list_at(names_at, 2)
for i = first, last, 2 do
  local name, line = ARGV[i], ARGV[i + 1]
  redis.call('ZADD', branches_key, line, name)
end
first, last = list_at(reach_at, 2)
for i = first, last, 2 do
  local segment, to = ARGV[i], tonumber(ARGV[i + 1])
  note_reach(segment, to, milliseconds + retention * 1000)
end
redis.call('HSET', PARTITION, 'owner', owner, 'kept', 1)
redis.call('HDEL', PARTITION, 'importing', 'import_base', 'import_size')

for _, key in ipairs({ PARTITION, index_key, BASE .. 'tombstones', BASE .. 'journal' }) do
  redis.call('PERSIST', key)
end
-- Segments that no branch reads.
local expiring = {}
for segment = base, base + size - 1 do
  if redis.call('EXISTS', branch_key(segment), holders_key(segment)) > 0 then
    for _, key in ipairs({ segment_key(segment), branch_key(segment), holders_key(segment) }) do
      redis.call('PERSIST', key)
    end
  else
    redis.call('EXPIRE', segment_key(segment), retention)
    expiring[segment] = true
  end
end
each_pieces(function(name, segment)
  segment = tonumber(segment)
  if expiring[segment] then
    redis.call('EXPIRE', pieces_key(name), retention)
  elseif segment >= base and segment < base + size then
    redis.call('PERSIST', pieces_key(name))
  end
end)
local low, high = position(base, 0), '(' .. position(base + size, 0)
for _, entry in ipairs(redis.call('ZRANGEBYSCORE', BASE .. 'journal', low, high)) do
  local key = BASE .. 'response:' .. string.match(entry, FIRST_FIELD)
  if redis.call('HDEL', key, 'importing') == 1 then
    redis.call('EXPIRE', key, retention)
  end
end
return { 'ok', redis.call('HGETALL', conversation_key) }
