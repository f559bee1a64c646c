-- withdraw_job: take a job that nobody has drawn out of its owner's. Its ticket finds another one, or none.
-- needs: nothing
-- KEYS  owners in turn, the owner's jobs
-- ARGV  owner, id of the response
-- Returns {'ok'}.

local owners, jobs = KEYS[1], KEYS[2]
local owner, response_id = ARGV[1], ARGV[2]

for _, job in ipairs(redis.call('LRANGE', jobs, 0, -1)) do
  if string.match(job, '^%d+:(.*)$') == response_id then
    redis.call('LREM', jobs, 1, job)
  end
end
if redis.call('EXISTS', jobs) == 0 then
  redis.call('LREM', owners, 0, owner)
end
return { 'ok' }
