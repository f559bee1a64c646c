-- claim_events: become the one who writes the log of an unfinished response, and begin it if there is none.
-- needs: response
-- KEYS  response, log, writer's lock, what the log has in pieces
-- ARGV  1 owner  2 token  3 1 to empty the log, else 0  4 seconds that the log lives on from now  5 ms that the lock
--       lives on from now
-- Returns {'ok', 1}, or {'ok', 0} when the response is finished or another run has it: nothing was changed.

local response_key, log_key, lock_key, pieces_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local owner, token, is_emptied, log_life, lease_ms = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4], ARGV[5]

local accepted = redis.call('HMGET', response_key, 'status', 'token')
if accepted[2] ~= token or not is_unfinished(accepted[1]) then
  return { 'ok', 0 }
end
if is_emptied then
  redis.call('UNLINK', log_key, pieces_key)
end
if redis.call('EXISTS', log_key) == 0 then
  redis.call('XADD', log_key, '0-1', 'owner', owner, 'generation', token)
end
redis.call('EXPIRE', log_key, log_life)
redis.call('SET', lock_key, token, 'PX', lease_ms)
return { 'ok', 1 }
