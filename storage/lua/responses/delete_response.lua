-- delete_response: forget a response. Its descendants keep their snapshots; when it was the last one of a partition
-- without a conversation, everything in the partition goes.
-- needs: job
-- KEYS  partition, conversation, branches, index, response, log of its events
-- ARGV  owner
-- Returns {'ok', bytes of its body, 1 if everything went, else 0} or {'response_not_found'}.

local conversation_key, branches_key, index_key, response_key, log_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local owner = ARGV[1]

if not owned(owner) or redis.call('EXISTS', response_key) == 0 then
  return { 'response_not_found' }
end
redis.call('UNLINK', log_key, BASE .. 'job:' .. id_of_key(response_key))
-- one that still runs is cancelled by this
local lock = kept_lock(response_key)
if lock then
  redis.call('DEL', lock)
end
local size = #(redis.call('HGET', response_key, 'body') or '')
redis.call('DEL', response_key)
local left = redis.call('HINCRBY', PARTITION, 'responses', -1)
if left <= 0 and redis.call('EXISTS', conversation_key) == 0 then
  for segment = 0, tonumber(redis.call('HGET', PARTITION, 'next_segment') or '0') - 1 do
    redis.call('UNLINK', segment_key(segment))
  end
  free_pieces(function() return true end)
  redis.call('UNLINK', PARTITION, branches_key, index_key)
  return { 'ok', size, 1 }
end
return { 'ok', size, 0 }
