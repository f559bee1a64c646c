-- return_job: give a response back so that somebody else may run it at once; this attempt does not count.
-- needs: job
-- KEYS  partition, response
-- ARGV  token, token that nobody has, ms that its branch stays locked without anybody
-- Returns {'ok', 1 if it was run under this token, else 0}.

local response_key = KEYS[2]
local token, nobody, lease_ms = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', response_key, 'token') ~= token then
  return { 'ok', 0 }
end
pass_on(response_key, nobody, lease_ms)
redis.call('HSET', response_key, 'lease_until', 0)
redis.call('HINCRBY', response_key, 'attempts', -1)
return { 'ok', 1 }
