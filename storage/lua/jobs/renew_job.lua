-- renew_job: keep a response that is being run, and see whether it still is to be.
-- needs: clock
-- KEYS  response
-- ARGV  token, lease ms
-- Returns {'ok', 1 if it is still run under this token, else 0: it was cancelled, deleted or taken over}. Writes only
-- when a third of the lease is over.

local response_key = KEYS[1]
local token, lease = ARGV[1], tonumber(ARGV[2])

local fields = redis.call('HMGET', response_key, 'token', 'lease_until')
if fields[1] ~= token then
  return { 'ok', 0 }
end
local _, milliseconds = now()
if tonumber(fields[2]) - milliseconds < lease * 2 / 3 then
  redis.call('HSET', response_key, 'lease_until', string.format('%.0f', milliseconds + lease))
end
return { 'ok', 1 }
