-- fail_job: end a response as failed that can't be run to its end.
-- needs: job
-- KEYS  partition, response
-- ARGV  token, error (JSON)
-- Returns {'ok', 1 if it was run under this token, else 0}.

local response_key = KEYS[2]
local token, failure = ARGV[1], ARGV[2]

if redis.call('HGET', response_key, 'token') ~= token then
  return { 'ok', 0 }
end
conclude(response_key, 'failed', failure)
return { 'ok', 1 }
