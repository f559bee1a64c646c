-- check_bytes: whether an owner may store more.
-- needs: clock
-- KEYS  the owner's partitions with their bytes, the same with their ends
-- ARGV  most bytes
-- Returns {'ok', bytes} or {'bytes_exceeded'}. Partitions that have expired make room.

local stored_key, ends_key = KEYS[1], KEYS[2]
local most = tonumber(ARGV[1])
local PRUNED = 500

local total = tonumber(redis.call('HGET', stored_key, 'total') or '0')
if total >= most then
  local _, milliseconds = now()
  for _, partition in ipairs(redis.call('ZRANGEBYSCORE', ends_key, '-inf', milliseconds, 'LIMIT', 0, PRUNED)) do
    local bytes = redis.call('HGET', stored_key, partition) or '0'
    total = redis.call('HINCRBY', stored_key, 'total', '-' .. bytes)
    redis.call('HDEL', stored_key, partition)
    redis.call('ZREM', ends_key, partition)
  end
end
if total >= most then
  return { 'bytes_exceeded' }
end
return { 'ok', total }
