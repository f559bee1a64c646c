-- reclaim_jobs: take over entries whose worker has not given a sign of life.
-- needs: nothing
-- KEYS  queue
-- ARGV  group, worker, ms without a sign, number wanted
-- Returns {'ok', {{entry, {'response', id}}…}}; none where there is no queue yet.

local queue = KEYS[1]
local group, worker, idle_ms, wanted = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local reply = redis.pcall('XAUTOCLAIM', queue, group, worker, idle_ms, '0-0', 'COUNT', wanted)
return { 'ok', reply.err and {} or reply[2] }
