-- submit_response: write down a response that was accepted and will be run by whoever takes its job from the queue.
-- KEYS  partition, conversation, branches, index, response, commit marker
-- ARGV  1 owner  2 body (see job.lua)  3 job  4 token  5 branch lock that is kept for it ('' = none)
--       6 base chain (closed)  7 pending calls at the base, joined with CALL_BREAK  8 retention s
--       9 1 if its events will be kept, else 0
-- Returns {'ok'} or {'conflict'} when the partition is another owner's or it was given up for lost meanwhile. A repeat
-- changes nothing.

if redis.call('EXISTS', KEYS[5]) == 1 then
  return { redis.call('HGET', KEYS[5], 'token') == ARGV[4] and 'ok' or 'conflict' }
end
if redis.call('EXISTS', KEYS[6]) == 1 or (not owned(ARGV[1]) and redis.call('EXISTS', KEYS[1]) == 1) then
  return { 'conflict' }
end
local base = still_there(parse_chain(ARGV[6]))
local retention = tonumber(ARGV[8])
local seconds, milliseconds = now()
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'responses', 1)
redis.call('HSET', KEYS[5], 'status', 'queued', 'body', ARGV[2], 'snapshot', format_chain(base),
  'context', format_chain(base), 'output', '', 'pending', ARGV[7], 'created_at', seconds,
  'background', 1, 'streamed', ARGV[9], 'token', ARGV[4], 'job', ARGV[3], 'attempts', 0, 'lease_until', 0,
  'lock', ARGV[5], 'accepted_at', milliseconds)
redis.call('EXPIRE', KEYS[5], retention)
slide_expiry(base, KEYS[4], retention)
return { 'ok' }
