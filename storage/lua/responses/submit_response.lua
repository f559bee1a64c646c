-- submit_response: write down a response that was accepted and will be run by whoever takes its job from the queue.
-- needs: common
-- KEYS  partition, conversation, branches, index, response, commit marker; of a job in pieces: what was staged of it,
--       where it will be
-- ARGV  1 owner  2 body (see job.lua)  3 job ('' = it is staged)  4 token  5 branch lock that is kept for it ('' = none)
--       6 base chain (closed)  7 pending calls at the base, joined with CALL_BREAK  8 retention s
--       9 1 if its events will be kept, else 0; of a job in pieces  10 how many  11 its bytes
-- Returns {'ok'} or {'conflict'} when the partition is another owner's or it was given up for lost meanwhile, or
-- {'unstaged'} when what was staged is gone. A repeat changes nothing.

local index_key, response_key, marker_key = KEYS[4], KEYS[5], KEYS[6]
local owner, body, job, token, lock = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local base_chain, pending, retention, streamed = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[9]
local pieces, size = ARGV[10], ARGV[11]
local staged_key, job_key = pieces and KEYS[7], pieces and KEYS[8]

if redis.call('EXISTS', response_key) == 1 then
  return { redis.call('HGET', response_key, 'token') == token and 'ok' or 'conflict' }
end
if redis.call('EXISTS', marker_key) == 1 or (not owned(owner) and redis.call('EXISTS', PARTITION) == 1) then
  return { 'conflict' }
end
if staged_key and redis.call('LLEN', staged_key) ~= tonumber(pieces) then
  return { 'unstaged' }
end
local base = still_there(parse_chain(base_chain))
local seconds, milliseconds = now()
redis.call('HSET', PARTITION, 'owner', owner)
redis.call('HINCRBY', PARTITION, 'responses', 1)
redis.call('HSET', response_key, 'status', 'queued', 'body', body, 'snapshot', format_chain(base),
  'context', format_chain(base), 'output', '', 'pending', pending, 'created_at', seconds,
  'background', 1, 'streamed', streamed, 'token', token, 'job', job, 'attempts', 0, 'lease_until', 0,
  'lock', lock, 'accepted_at', milliseconds)
redis.call('EXPIRE', response_key, retention)
if staged_key then
  redis.call('HSET', response_key, 'job_pieces', pieces .. ':' .. size)
  redis.call('RENAME', staged_key, job_key)
  redis.call('EXPIRE', job_key, retention)
end
slide_expiry(base, index_key, retention)
return { 'ok' }
