-- set_bytes: put right what is counted of a partition for its owner.
-- needs: clock
-- KEYS  the owner's partitions with their bytes, the same with their ends
-- ARGV  partition, bytes (0 = nothing is there), ms that they are kept from now on (0 = for ever), bytes that were
--       counted before ('' = any; else nothing is done if they are others now)
-- Returns {'ok', 1 if it was done, else 0}.

local stored_key, ends_key = KEYS[1], KEYS[2]
local partition, bytes, life, expected = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local before = redis.call('HGET', stored_key, partition) or '0'
if expected ~= '' and before ~= expected then
  return { 'ok', 0 }
end
local total = redis.call('HINCRBY', stored_key, 'total', string.format('%.0f', bytes - tonumber(before)))
redis.call('ZREM', ends_key, partition)
if bytes == 0 then
  redis.call('HDEL', stored_key, partition)
  if total == 0 then
    redis.call('UNLINK', stored_key)
  end
  return { 'ok', 1 }
end
redis.call('HSET', stored_key, partition, string.format('%.0f', bytes))
if life > 0 then
  local _, milliseconds = now()
  redis.call('ZADD', ends_key, string.format('%.0f', milliseconds + life), partition)
end
return { 'ok', 1 }
