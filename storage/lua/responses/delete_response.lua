-- delete_response: forget a response. Its descendants keep their snapshots; when it was the last one of a partition
-- without a conversation, everything in the partition goes.
-- KEYS  partition, conversation, branches, index, response, log of its events
-- ARGV  owner
-- Returns {'ok'} or {'response_not_found'}.

if not owned(ARGV[1]) or redis.call('EXISTS', KEYS[5]) == 0 then
  return { 'response_not_found' }
end
redis.call('UNLINK', KEYS[6])
-- one that still runs is cancelled by this
local lock = kept_lock(KEYS[5])
if lock then
  redis.call('DEL', lock)
end
redis.call('DEL', KEYS[5])
local left = redis.call('HINCRBY', KEYS[1], 'responses', -1)
if left <= 0 and redis.call('EXISTS', KEYS[2]) == 0 then
  for segment = 0, tonumber(redis.call('HGET', KEYS[1], 'next_segment') or '0') - 1 do
    redis.call('UNLINK', segment_key(segment))
  end
  redis.call('UNLINK', KEYS[1], KEYS[3], KEYS[4])
end
return { 'ok' }
