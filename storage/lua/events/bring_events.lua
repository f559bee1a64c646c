-- bring_events: bring a piece of a batch that is about to be put at the end of a log.
-- needs: log
-- KEYS  response, log, writer's lock, what the log has in pieces
-- ARGV  1 token ('' = none)  2 number of the batch's first event  3 number of the piece, from 0  4 its bytes  5 seconds
--       that it waits for the next one, or for the batch
-- Returns {'ok', how many pieces of the batch are there}; {'ok', -1} when this writer may not write, or the log does not
-- end where the batch begins. Nobody reads them before the batch is there. The first one takes the place of all that
-- somebody else has brought and not told.

local response_key, log_key, lock_key, pieces_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, first, number, bytes, patience = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])

local at, _, used = end_of_log(log_key)
if not may_write(response_key, lock_key, token) or at ~= first then
  return { 'ok', -1 }
end
if number == 0 and used > 0 then
  redis.call('LTRIM', pieces_key, 0, used - 1)
elseif number == 0 then
  redis.call('UNLINK', pieces_key)
end
local there = redis.call('LLEN', pieces_key) - used
if there == number then
  there = redis.call('RPUSH', pieces_key, bytes) - used
end
-- those that are told live as long as the log
redis.call('PEXPIRE', pieces_key, math.max(patience * 1000, used > 0 and redis.call('PTTL', log_key) or 0))
return { 'ok', there }
