-- claim_job: take a response to run it, if nobody does.
-- needs: job
-- KEYS  partition, response, commit marker
-- ARGV  1 token of the new attempt  2 lease ms  3 ms since its job was queued from when on a response that is not there
--       will not be  4 when its job was queued, ms  5 marker's life s  6 most bytes of its job (0 = any)
-- Returns {'ok', owner, job, pieces, attempts with this one, ms since it was accepted}; pieces: how many the job has
-- which are to be read one by one (read_job), 0 for one that is here as a whole; {'busy', ms after which to ask again}
-- when somebody runs it or it is not there yet; {'gone'} when it is over, was deleted or will not come; {'large',
-- its bytes} when its job has more: nothing is changed then.

local response_key, marker_key = KEYS[2], KEYS[3]
local token, lease_ms, patience_ms, queued_at, marker_life = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local most_bytes = tonumber(ARGV[6])

local fields = redis.call('HMGET', response_key, 'status', 'lease_until', 'job', 'accepted_at', 'body', 'job_pieces')
local _, milliseconds = now()
if not fields[1] then
  if milliseconds - tonumber(queued_at) < tonumber(patience_ms) then
    return { 'busy', 0 }
  end
  redis.call('SET', marker_key, 1, 'EX', marker_life)
  return { 'gone' }
end
if not is_unfinished(fields[1]) then
  return { 'gone' }
end
local left = tonumber(fields[2]) - milliseconds
if left > 0 then
  return { 'busy', left }
end
local pieces, size = string.match(fields[6] or '', '(%d+):(%d+)')
size = tonumber(size or #fields[3])
if most_bytes > 0 and size > most_bytes then
  return { 'large', size }
end
pass_on(response_key, token, lease_ms)
redis.call('HSET', response_key, 'status', 'in_progress', 'body', restated(fields[5], 'in_progress', 'null'),
  'lease_until', string.format('%.0f', milliseconds + lease_ms))
local attempts = redis.call('HINCRBY', response_key, 'attempts', 1)
return { 'ok', redis.call('HGET', PARTITION, 'owner'), fields[3], tonumber(pieces or 0), attempts,
  milliseconds - tonumber(fields[4]) }
