-- identify_conversation: whose conversation lives in a partition, for whoever may see all owners' (the command line).
-- needs: nothing
-- KEYS  partition, conversation
-- ARGV  none
-- Returns {'ok', owner, facts (flat field/value list)}, or {'ok', '', {}} when none lives there. Writes nothing.

local partition_key, conversation_key = KEYS[1], KEYS[2]

if redis.call('HEXISTS', partition_key, 'kept') == 0 then
  return { 'ok', '', {} }
end
return { 'ok', redis.call('HGET', partition_key, 'owner'), redis.call('HGETALL', conversation_key) }
