-- correct_index: put a conversation where its last activity says, in a listing that missed it.
-- needs: nothing
-- KEYS  sorted set
-- ARGV  conversation id, score in ms
-- Returns {'ok'}. An entry that is no longer listed stays out.

local listing = KEYS[1]
local conversation_id, score = ARGV[1], ARGV[2]

redis.call('ZADD', listing, 'XX', score, conversation_id)
return { 'ok' }
