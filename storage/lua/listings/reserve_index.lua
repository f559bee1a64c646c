-- reserve_index: list a conversation that is about to be made, if its owner has fewer than so many.
-- needs: clock
-- KEYS  sorted set of all of the owner's conversations
-- ARGV  conversation id, most, life of a conversation after its last use in ms (0 = for ever)
-- Returns {'ok', score}, or {'quota_exceeded', id}. Entries of conversations that have expired make room.

local listing = KEYS[1]
local conversation_id, most, life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local _, milliseconds = now()
if not redis.call('ZSCORE', listing, conversation_id) and redis.call('ZCARD', listing) >= most then
  if life > 0 then
    redis.call('ZREMRANGEBYSCORE', listing, '-inf', milliseconds - life)
  end
  if redis.call('ZCARD', listing) >= most then
    return { 'quota_exceeded', conversation_id }
  end
end
redis.call('ZADD', listing, milliseconds, conversation_id)
return { 'ok', milliseconds }
