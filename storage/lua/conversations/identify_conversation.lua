-- identify_conversation: whose conversation lives in a partition, for whoever may see all owners' (the command line).
-- KEYS  partition, conversation
-- ARGV  none
-- Returns {'ok', owner, facts (flat field/value list)}, or {'ok', '', {}} when none lives there. Writes nothing.

if redis.call('HEXISTS', KEYS[1], 'kept') == 0 then
  return { 'ok', '', {} }
end
return { 'ok', redis.call('HGET', KEYS[1], 'owner'), redis.call('HGETALL', KEYS[2]) }
