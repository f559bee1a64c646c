-- response: what is true of every response.
-- needs: nothing

local function is_unfinished(status)
  return status == 'queued' or status == 'in_progress'
end

-- Leaves of a response that is over only what every response has: see job.lua. job_key: where its job is in pieces.
local function drop_job(response_key, job_key)
  redis.call('UNLINK', job_key)
  redis.call('HDEL', response_key, 'token', 'job', 'job_pieces', 'attempts', 'lease_until', 'lock', 'accepted_at')
end
