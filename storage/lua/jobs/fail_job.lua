-- fail_job: end a response as failed that can't be run to its end.
-- KEYS  partition, response
-- ARGV  token, error (JSON)
-- Returns {'ok', 1 if it was run under this token, else 0}.

if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then
  return { 'ok', 0 }
end
conclude(KEYS[2], 'failed', ARGV[2])
return { 'ok', 1 }
