-- keep_key: renew the lease of an idempotency key, and note which response its request makes.
-- KEYS  record
-- ARGV  token, lease ms, response id ('' = as it is)
-- Returns {'ok', 1 if the key is held by this token, else 0}.

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then
  return { 'ok', 0 }
end
local time = redis.call('TIME')
local milliseconds = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('HSET', KEYS[1], 'lease', string.format('%.0f', milliseconds + tonumber(ARGV[2])))
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], 'response', ARGV[3])
end
return { 'ok', 1 }
