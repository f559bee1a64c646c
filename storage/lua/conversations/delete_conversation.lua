-- delete_conversation: hide a conversation and all its items from now on; what is left expires, digests go at once.
-- Chains that started from its responses keep working (their snapshots need the segments), hence no DEL here.
-- needs: retention
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, id, retention s
-- Returns {'ok', facts (flat field/value list), names of the digests that led here} or {'conversation_not_found'}.

local conversation_key, branches_key, index_key = KEYS[2], KEYS[3], KEYS[4]
local owner, conversation_id, retention = ARGV[1], ARGV[2], tonumber(ARGV[3])

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local facts = redis.call('HGETALL', conversation_key)
local seconds = now()
-- a conversation with a time to live need not have all of it any more
if redis.call('PTTL', PARTITION) >= 0 then
  local deadline = math.max((seconds + retention) * 1000, latest_reach())
  expire_at(PARTITION, deadline + GRACE)
  each_lasting_key(function(key) expire_at(key, deadline + GRACE) end)
end
redis.call('HSET', conversation_key, 'deleted_at', seconds)
redis.call('HDEL', PARTITION, 'kept')
local names = { PARTITION, conversation_key, branches_key, index_key, BASE .. 'tombstones', BASE .. 'journal' }
for _, key in ipairs(names) do
  extend(key, retention)
end
each_pieces(function(name) extend(pieces_key(name), retention) end)
for segment = 0, tonumber(redis.call('HGET', PARTITION, 'next_segment')) - 1 do
  extend(segment_key(segment), retention)
  extend(branch_key(segment), retention)
  extend(holders_key(segment), retention)
end
local digests = redis.call('LRANGE', BASE .. 'digests', 0, -1)
redis.call('UNLINK', BASE .. 'digests')
return { 'ok', facts, digests }
