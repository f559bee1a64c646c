-- delete_conversation: hide a conversation and all its items from now on; what is left expires.
-- Chains that started from its responses keep working (their snapshots need the segments), hence no DEL here.
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, id, retention s
-- Returns {'ok', facts} (flat field/value list) or {'conversation_not_found'}.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local facts = redis.call('HGETALL', KEYS[2])
local seconds = now()
local retention = tonumber(ARGV[3])
-- a conversation with a time to live need not have all of it any more
if redis.call('PTTL', KEYS[1]) >= 0 then
  local deadline = math.max((seconds + retention) * 1000, latest_reach())
  expire_at(KEYS[1], deadline + GRACE)
  each_lasting_key(function(key) expire_at(key, deadline + GRACE) end)
end
redis.call('HSET', KEYS[2], 'deleted_at', seconds)
redis.call('HDEL', KEYS[1], 'kept')
for _, key in ipairs({ KEYS[1], KEYS[2], KEYS[3], KEYS[4], BASE .. 'tombstones', BASE .. 'journal' }) do
  extend(key, retention)
end
for segment = 0, tonumber(redis.call('HGET', KEYS[1], 'next_segment')) - 1 do
  extend(segment_key(segment), retention)
  extend(branch_key(segment), retention)
  extend(holders_key(segment), retention)
end
return { 'ok', facts }
