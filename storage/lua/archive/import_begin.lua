-- import_begin: reserve what an import needs, or find it reserved; what another file left unfinished is removed.
-- needs: import
-- KEYS  partition, conversation
-- ARGV  owner, conversation id, the file's fingerprint, number of segments, life of what is unfinished in s
-- Returns {'ok', number of the first segment, {}}; {'ok', -1, facts} when the conversation is there; or
-- {'conversation_exists', id} when something else lives in the partition.

local conversation_key = KEYS[2]
local owner, id, fingerprint, size, life = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

if owned(owner) and conversation_lives(conversation_key, id) then
  return { 'ok', -1, redis.call('HGETALL', conversation_key) }
end
local fields = redis.call('HMGET', PARTITION, 'owner', 'importing', 'import_base', 'import_size')
if redis.call('EXISTS', PARTITION) == 1 and (fields[1] or importer_of(fields[2])) ~= owner
  or fields[1] and redis.call('HGET', conversation_key, 'id') ~= id then
  return { 'conversation_exists', id }
end
if is_importing(owner, fingerprint) then
  extend(PARTITION, life)
  return { 'ok', tonumber(fields[3]), {} }
end

if fields[2] then
  local first, last = tonumber(fields[3]), tonumber(fields[3]) + tonumber(fields[4]) - 1
  local low, high = position(first, 0), '(' .. position(last + 1, 0)
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', BASE .. 'journal', low, high)) do
    local key = BASE .. 'response:' .. string.match(entry, FIRST_FIELD)
    if redis.call('HEXISTS', key, 'importing') == 1 then
      redis.call('UNLINK', key)
      redis.call('HINCRBY', PARTITION, 'responses', -1)
    end
  end
  for segment = first, last do
    redis.call('UNLINK', segment_key(segment), branch_key(segment), holders_key(segment))
  end
  free_pieces(function(_, segment) return first <= tonumber(segment) and tonumber(segment) <= last end)
  redis.call('ZREMRANGEBYSCORE', BASE .. 'journal', low, high)
  redis.call('ZREMRANGEBYSCORE', BASE .. 'tombstones', low, high)
end
local base = redis.call('HINCRBY', PARTITION, 'next_segment', size) - size
redis.call('HSET', PARTITION, 'importing', claim(owner, fingerprint), 'import_base', base, 'import_size', size)
extend(PARTITION, life)
return { 'ok', base, {} }
