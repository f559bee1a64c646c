-- requeue_job: put a job back that a worker has drawn, before its owner's others, for whoever is next.
-- needs: nothing
-- KEYS  queue, owners in turn, the owner's jobs, drawn jobs
-- ARGV  group, entry, owner ('' = the entry names its response itself), job (`ms:response`, or the response)
-- Returns {'ok'}.

local queue, owners, jobs, drawn = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, entry, owner, job = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

redis.pcall('XACK', queue, group, entry)
redis.call('XDEL', queue, entry)
redis.call('HDEL', drawn, entry)
if owner == '' then
  redis.call('XADD', queue, '*', 'response', job)
  return { 'ok' }
end
if redis.call('LPUSH', jobs, job) == 1 then
  redis.call('LREM', owners, 0, owner)
  redis.call('LPUSH', owners, owner)
end
redis.call('XADD', queue, '*', 'response', '')
return { 'ok' }
