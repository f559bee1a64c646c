-- claim_job: take a response to run it, if nobody does.
-- KEYS  partition, response, commit marker
-- ARGV  1 token of the new attempt  2 lease ms  3 ms since its job was queued from when on a response that is not there
--       will not be  4 when its job was queued, ms  5 marker's life s
-- Returns {'ok', owner, job, attempts with this one, ms since it was accepted}; {'busy', ms after which to ask again}
-- when somebody runs it or it is not there yet; {'gone'} when it is over, was deleted or will not come.

local fields = redis.call('HMGET', KEYS[2], 'status', 'lease_until', 'job', 'accepted_at', 'body')
local _, milliseconds = now()
if not fields[1] then
  if milliseconds - tonumber(ARGV[4]) < tonumber(ARGV[3]) then
    return { 'busy', 0 }
  end
  redis.call('SET', KEYS[3], 1, 'EX', ARGV[5])
  return { 'gone' }
end
if not is_unfinished(fields[1]) then
  return { 'gone' }
end
local left = tonumber(fields[2]) - milliseconds
if left > 0 then
  return { 'busy', left }
end
pass_on(KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], 'status', 'in_progress', 'body', restated(fields[5], 'in_progress', 'null'),
  'lease_until', string.format('%.0f', milliseconds + ARGV[2]))
local attempts = redis.call('HINCRBY', KEYS[2], 'attempts', 1)
return { 'ok', redis.call('HGET', KEYS[1], 'owner'), fields[3], attempts, milliseconds - tonumber(fields[4]) }
