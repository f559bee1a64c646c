-- enqueue_job: put a job at the end of its owner's, and a ticket into the queue, for which a worker will draw one.
-- needs: clock
-- KEYS  queue, owners in turn, the owner's jobs
-- ARGV  owner, id of the response, most jobs of an owner that may wait (0 = any number)
-- Returns {'ok'}, or {'queue_full'}: nothing was written.

local queue, owners, jobs = KEYS[1], KEYS[2], KEYS[3]
local owner, response_id, most = ARGV[1], ARGV[2], tonumber(ARGV[3])

if most > 0 and redis.call('LLEN', jobs) >= most then
  return { 'queue_full' }
end
local _, milliseconds = now()
if redis.call('RPUSH', jobs, string.format('%.0f:%s', milliseconds, response_id)) == 1 then
  redis.call('LREM', owners, 0, owner)
  redis.call('RPUSH', owners, owner)
end
redis.call('XADD', queue, '*', 'response', '')
return { 'ok' }
