-- reclaim_jobs: take over entries whose worker has not given a sign of life.
-- KEYS  queue
-- ARGV  group, worker, ms without a sign, number wanted
-- Returns {'ok', {{entry, {'response', id}}…}}; none where there is no queue yet.

local reply = redis.pcall('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], '0-0', 'COUNT', ARGV[4])
return { 'ok', reply.err and {} or reply[2] }
