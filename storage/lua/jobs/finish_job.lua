-- finish_job: take an entry out of the queue whose response is over.
-- needs: nothing
-- KEYS  queue, drawn jobs
-- ARGV  group, entry
-- Returns {'ok'}.

local queue, drawn = KEYS[1], KEYS[2]
local group, entry = ARGV[1], ARGV[2]

redis.pcall('XACK', queue, group, entry)
redis.call('XDEL', queue, entry)
redis.call('HDEL', drawn, entry)
return { 'ok' }
