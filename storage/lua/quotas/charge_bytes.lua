-- charge_bytes: count bytes that were stored in a partition, or are there no more, for its owner.
-- needs: clock
-- KEYS  the owner's partitions with their bytes, the same with their ends, marker of this charge
-- ARGV  partition, bytes (less than 0: given back), ms that they are kept from now on (0 = for ever), marker's life s
-- Returns {'ok'}. The marker makes a repeat count nothing.

local stored_key, ends_key, marker_key = KEYS[1], KEYS[2], KEYS[3]
local partition, bytes, life, marker_life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

local before = tonumber(redis.call('HGET', stored_key, partition))
if redis.call('EXISTS', marker_key) == 1 or (not before and bytes <= 0) then
  return { 'ok' }
end
local change = math.max(bytes, -(before or 0))
redis.call('HINCRBY', stored_key, partition, string.format('%.0f', change))
redis.call('HINCRBY', stored_key, 'total', string.format('%.0f', change))
redis.call('SET', marker_key, 1, 'EX', marker_life)
if bytes > 0 and life == 0 then
  redis.call('ZREM', ends_key, partition)
elseif bytes > 0 then
  -- what has no end keeps none: a conversation lives there
  local ends = redis.call('ZSCORE', ends_key, partition)
  local _, milliseconds = now()
  if ends or not before then
    redis.call('ZADD', ends_key, string.format('%.0f', math.max(milliseconds + life, tonumber(ends or 0))), partition)
  end
end
return { 'ok' }
