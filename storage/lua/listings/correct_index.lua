-- correct_index: put a conversation where its last activity says, in a listing that missed it.
-- KEYS  sorted set
-- ARGV  conversation id, score in ms
-- Returns {'ok'}. An entry that is no longer listed stays out.

redis.call('ZADD', KEYS[1], 'XX', ARGV[2], ARGV[1])
return { 'ok' }
