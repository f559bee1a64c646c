-- read_conversation: one conversation's facts.
-- needs: common
-- KEYS  partition, conversation
-- ARGV  owner, id
-- Returns {'ok', field, value, field, value, …} or {'conversation_not_found'}. Writes nothing.

local conversation_key = KEYS[2]
local owner, conversation_id = ARGV[1], ARGV[2]

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
return { 'ok', redis.call('HGETALL', conversation_key) }
