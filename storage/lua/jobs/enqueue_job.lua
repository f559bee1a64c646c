-- enqueue_job: put a job at the end of the queue.
-- needs: nothing
-- KEYS  queue
-- ARGV  group, id of the response, entry that it replaces ('' = none)
-- Returns {'ok'}.

local queue = KEYS[1]
local group, response_id, replaced = ARGV[1], ARGV[2], ARGV[3]

if replaced ~= '' then
  redis.pcall('XACK', queue, group, replaced)
  redis.call('XDEL', queue, replaced)
end
redis.call('XADD', queue, '*', 'response', response_id)
return { 'ok' }
