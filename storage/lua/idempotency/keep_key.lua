-- keep_key: renew the lease of an idempotency key, and note which response its request makes.
-- needs: clock
-- KEYS  record
-- ARGV  token, lease ms, response id ('' = as it is)
-- Returns {'ok', 1 if the key is held by this token, else 0}.

local record = KEYS[1]
local token, lease_ms, response_id = ARGV[1], tonumber(ARGV[2]), ARGV[3]

if redis.call('HGET', record, 'token') ~= token then
  return { 'ok', 0 }
end
local _, milliseconds = now()
redis.call('HSET', record, 'lease', string.format('%.0f', milliseconds + lease_ms))
if response_id ~= '' then
  redis.call('HSET', record, 'response', response_id)
end
return { 'ok', 1 }
