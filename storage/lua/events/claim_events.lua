-- claim_events: become the one who writes the log of an unfinished response, and begin it if there is none.
-- KEYS  response, log, writer's lock
-- ARGV  1 owner  2 token  3 1 to empty the log, else 0  4 seconds that the log lives on from now  5 ms that the lock
--       lives on from now
-- Returns {'ok', 1}, or {'ok', 0} when the response is finished or another run has it: nothing was changed.

local accepted = redis.call('HMGET', KEYS[1], 'status', 'token')
if accepted[2] ~= ARGV[2] or not (accepted[1] == 'queued' or accepted[1] == 'in_progress') then
  return { 'ok', 0 }
end
if ARGV[3] == '1' then
  redis.call('DEL', KEYS[2])
end
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('XADD', KEYS[2], '0-1', 'owner', ARGV[1], 'generation', ARGV[2])
end
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[5])
return { 'ok', 1 }
