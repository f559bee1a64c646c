-- finish_job: take an entry out of the queue whose response is over.
-- needs: nothing
-- KEYS  queue
-- ARGV  group, entry
-- Returns {'ok'}.

local queue = KEYS[1]
local group, entry = ARGV[1], ARGV[2]

redis.pcall('XACK', queue, group, entry)
redis.call('XDEL', queue, entry)
return { 'ok' }
