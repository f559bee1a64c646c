-- identify_conversation: whose a partition is, and the conversation in it, for whoever may see all owners' (the
-- command line).
-- needs: nothing
-- KEYS  partition, conversation
-- ARGV  none
-- Returns {'ok', owner ('': nobody's), facts (flat field/value list, empty when none lives there)}. Writes nothing.

local partition_key, conversation_key = KEYS[1], KEYS[2]

local owner = redis.call('HGET', partition_key, 'owner') or ''
if redis.call('HEXISTS', partition_key, 'kept') == 0 then
  return { 'ok', owner, {} }
end
return { 'ok', owner, redis.call('HGETALL', conversation_key) }
