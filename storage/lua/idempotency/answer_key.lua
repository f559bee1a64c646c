-- answer_key: write down the answer of a request that holds an idempotency key; the key is held no longer.
-- needs: nothing
-- KEYS  record
-- ARGV  token, retention s, status, content type, response id ('' = as it is), 1 if the body is kept else 0, body
-- Returns {'ok', 1 if the key was held by this token, else 0}.

local record = KEYS[1]
local token, retention, status, content_type = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local response_id, is_kept, body = ARGV[5], ARGV[6] == '1', ARGV[7]

if redis.call('HGET', record, 'token') ~= token then
  return { 'ok', 0 }
end
redis.call('HDEL', record, 'token', 'lease')
redis.call('HSET', record, 'status', status, 'type', content_type)
if response_id ~= '' then
  redis.call('HSET', record, 'response', response_id)
end
if is_kept then
  redis.call('HSET', record, 'body', body)
end
redis.call('EXPIRE', record, retention)
return { 'ok', 1 }
