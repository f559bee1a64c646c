-- answer_key: write down the answer of a request that holds an idempotency key; the key is held no longer.
-- KEYS  record
-- ARGV  token, retention s, status, content type, response id ('' = as it is), 1 if the body is kept else 0, body
-- Returns {'ok', 1 if the key was held by this token, else 0}.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return { 'ok', 0 }
end
redis.call('HDEL', KEYS[1], 'token', 'lease')
redis.call('HSET', KEYS[1], 'status', ARGV[3], 'type', ARGV[4])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'response', ARGV[5])
end
if ARGV[6] == '1' then
  redis.call('HSET', KEYS[1], 'body', ARGV[7])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
return { 'ok', 1 }
