-- list_restored: put a conversation into a listing that the backup may not have had it in.
-- needs: nothing
-- KEYS  sorted set
-- ARGV  conversation id, score in ms
-- Returns {'ok'}. An entry that is there stays where it is.

local listing = KEYS[1]
local conversation_id, score = ARGV[1], ARGV[2]

redis.call('ZADD', listing, 'NX', score, conversation_id)
return { 'ok' }
