-- read_conversation: one conversation's facts.
-- KEYS  partition, conversation
-- ARGV  owner, id
-- Returns {'ok', field, value, field, value, …} or {'conversation_not_found'}. Writes nothing.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
return { 'ok', redis.call('HGETALL', KEYS[2]) }
