-- append_events: put a batch of events at the end of a response's log, which begins with the first.
-- KEYS  response, log, writer's lock
-- ARGV  1 owner  2 token of a response that was accepted before it ran ('' = none)  3 number of the batch's first event
--       4 number of events  5 their bytes  6 1 if nothing follows, else 0  7 seconds that the log lives on from now
--       8 value of the lock  9 ms that the lock lives on from now
-- Returns {'ok', 1} when it is there, be it from a repeat; {'ok', 0} when this writer may not write, or the log does
-- not end where the batch begins: it was deleted, has expired, is complete or has been begun anew.
--
-- A log is a stream. Its first entry `0-1` has `owner` and `generation`; each other one is a batch: `events`, how many;
-- `frames`, their bytes; `last` in the last one. Its id is the number of the event that comes after it.

local accepted = redis.call('HMGET', KEYS[1], 'status', 'token')
local unfinished = accepted[1] == 'queued' or accepted[1] == 'in_progress'
if ARGV[2] ~= '' then
  -- the commit drops the token; from then on the lock says whose run it was
  local holder = unfinished and accepted[2] or redis.call('GET', KEYS[3])
  if holder ~= ARGV[2] or not accepted[1] then
    return { 'ok', 0 }
  end
end

local first = tonumber(ARGV[3])
local id = string.format('%.0f-0', first + tonumber(ARGV[4]))
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local at = newest and tonumber(string.match(newest[1], '^%d+')) or 0
if at ~= first or (newest and newest[2][5] == 'last') then
  local same = redis.call('XRANGE', KEYS[2], id, id)[1]
  return { 'ok', same and same[2][4] == ARGV[5] and 1 or 0 }
end

if not newest then
  redis.call('XADD', KEYS[2], '0-1', 'owner', ARGV[1], 'generation', ARGV[8])
end
if ARGV[6] == '1' then
  redis.call('XADD', KEYS[2], id, 'events', ARGV[4], 'frames', ARGV[5], 'last', '1')
  redis.call('DEL', KEYS[3])
else
  redis.call('XADD', KEYS[2], id, 'events', ARGV[4], 'frames', ARGV[5])
  redis.call('SET', KEYS[3], ARGV[8], 'PX', ARGV[9])
end
redis.call('EXPIRE', KEYS[2], ARGV[7])
return { 'ok', 1 }
