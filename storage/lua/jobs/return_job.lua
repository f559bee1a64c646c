-- return_job: give a response back so that somebody else may run it at once; this attempt does not count.
-- KEYS  partition, response
-- ARGV  token, token that nobody has, ms that its branch stays locked without anybody
-- Returns {'ok', 1 if it was run under this token, else 0}.

if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then
  return { 'ok', 0 }
end
pass_on(KEYS[2], ARGV[2], ARGV[3])
redis.call('HSET', KEYS[2], 'lease_until', 0)
redis.call('HINCRBY', KEYS[2], 'attempts', -1)
return { 'ok', 1 }
