-- mark_watched: note that somebody watches a conversation, so that turns that begin now keep their events.
-- needs: common
-- KEYS  partition, conversation, mark
-- ARGV  owner, conversation id, ms until which that is so unless it is noted again
-- Returns {'ok'} or {'conversation_not_found'}.

local conversation_key, watched_key = KEYS[2], KEYS[3]
local owner, conversation_id, life = ARGV[1], ARGV[2], ARGV[3]

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
redis.call('SET', watched_key, 1, 'PX', life)
return { 'ok' }
