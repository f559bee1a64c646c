-- import_begin: reserve what an import needs, or find it reserved; what another file left unfinished is removed.
-- KEYS  partition, conversation
-- ARGV  owner, conversation id, the file's fingerprint, number of segments, life of what is unfinished in s
-- Returns {'ok', number of the first segment, {}}; {'ok', -1, facts} when the conversation is there; or
-- {'conversation_exists', id} when something else lives in the partition.

local owner, id, size, life = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
if owned(owner) and conversation_lives(KEYS[2], id) then
  return { 'ok', -1, redis.call('HGETALL', KEYS[2]) }
end
local fields = redis.call('HMGET', KEYS[1], 'owner', 'importing', 'import_base', 'import_size')
local importer = fields[2] and string.match(fields[2], '^(.*)\31')
if redis.call('EXISTS', KEYS[1]) == 1 and (fields[1] or importer) ~= owner
  or fields[1] and redis.call('HGET', KEYS[2], 'id') ~= id then
  return { 'conversation_exists', id }
end
if is_importing(owner, ARGV[3]) then
  extend(KEYS[1], life)
  return { 'ok', tonumber(fields[3]), {} }
end

if fields[2] then
  local first, last = tonumber(fields[3]), tonumber(fields[3]) + tonumber(fields[4]) - 1
  local low, high = position(first, 0), '(' .. position(last + 1, 0)
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', BASE .. 'journal', low, high)) do
    local key = BASE .. 'response:' .. string.match(entry, '^[^\31]*')
    if redis.call('HEXISTS', key, 'importing') == 1 then
      redis.call('UNLINK', key)
      redis.call('HINCRBY', KEYS[1], 'responses', -1)
    end
  end
  for segment = first, last do
    redis.call('UNLINK', segment_key(segment), branch_key(segment), holders_key(segment))
  end
  redis.call('ZREMRANGEBYSCORE', BASE .. 'journal', low, high)
  redis.call('ZREMRANGEBYSCORE', BASE .. 'tombstones', low, high)
end
local base = redis.call('HINCRBY', KEYS[1], 'next_segment', size) - size
redis.call('HSET', KEYS[1], 'importing', claim(owner, ARGV[3]), 'import_base', base, 'import_size', size)
extend(KEYS[1], life)
return { 'ok', base, {} }
