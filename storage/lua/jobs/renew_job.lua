-- renew_job: keep a response that is being run, and see whether it still is to be.
-- KEYS  response
-- ARGV  token, lease ms
-- Returns {'ok', 1 if it is still run under this token, else 0: it was cancelled, deleted or taken over}. Writes only
-- when a third of the lease is over.

local fields = redis.call('HMGET', KEYS[1], 'token', 'lease_until')
if fields[1] ~= ARGV[1] then
  return { 'ok', 0 }
end
local time = redis.call('TIME')
local milliseconds = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local lease = tonumber(ARGV[2])
if tonumber(fields[2]) - milliseconds < lease * 2 / 3 then
  redis.call('HSET', KEYS[1], 'lease_until', string.format('%.0f', milliseconds + lease))
end
return { 'ok', 1 }
