-- append_events: put a batch of events at the end of a response's log, which begins with the first.
-- needs: response
-- KEYS  response, log, writer's lock
-- ARGV  1 owner  2 token of a response that was accepted before it ran ('' = none)  3 number of the batch's first event
--       4 number of events  5 their bytes  6 1 if nothing follows, else 0  7 seconds that the log lives on from now
--       8 value of the lock  9 ms that the lock lives on from now
-- Returns {'ok', 1} when it is there, be it from a repeat; {'ok', 0} when this writer may not write, or the log does
-- not end where the batch begins: it was deleted, has expired, is complete or has been begun anew.
--
-- A log is a stream. Its first entry `0-1` has `owner` and `generation`; each other one is a batch: `events`, how many;
-- `frames`, their bytes; `last` in the last one. Its id is the number of the event that comes after it.

local response_key, log_key, lock_key = KEYS[1], KEYS[2], KEYS[3]
local owner, token, first, count, frames = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local is_last, log_life, holder, lease_ms = ARGV[6] == '1', ARGV[7], ARGV[8], ARGV[9]

local accepted = redis.call('HMGET', response_key, 'status', 'token')
if token ~= '' then
  -- the commit drops the token; from then on the lock says whose run it was
  local may_write = is_unfinished(accepted[1]) and accepted[2] or redis.call('GET', lock_key)
  if may_write ~= token or not accepted[1] then
    return { 'ok', 0 }
  end
end

local id = string.format('%.0f-0', first + tonumber(count))
local newest = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
local at = newest and tonumber(string.match(newest[1], '^%d+')) or 0
if at ~= first or (newest and newest[2][5] == 'last') then
  local same = redis.call('XRANGE', log_key, id, id)[1]
  return { 'ok', same and same[2][4] == frames and 1 or 0 }
end

if not newest then
  redis.call('XADD', log_key, '0-1', 'owner', owner, 'generation', holder)
end
if is_last then
  redis.call('XADD', log_key, id, 'events', count, 'frames', frames, 'last', '1')
  redis.call('DEL', lock_key)
else
  redis.call('XADD', log_key, id, 'events', count, 'frames', frames)
  redis.call('SET', lock_key, holder, 'PX', lease_ms)
end
redis.call('EXPIRE', log_key, log_life)
return { 'ok', 1 }
