-- hold_digests: the plain case: a conversation that never expires.
-- needs: layout
--
-- Left to the general case: a conversation that expires, and one that is gone or somebody else's.

local head = redis.call('HMGET', PARTITION, 'owner', 'kept')
if CONVERSATION_SECONDS == 0 and head[1] == owner and head[2] and redis.call('PTTL', PARTITION) == -1 then
  for i = names_at, #ARGV, CHUNK do
    redis.call('RPUSH', BASE .. 'digests', unpack(ARGV, i, math.min(i + CHUNK - 1, #ARGV)))
  end
  return { 'ok', 1 }
end
