-- append_events: put a batch of events at the end of a response's log, which begins with the first.
-- needs: log
-- KEYS  response, log, writer's lock, what the log has in pieces
-- ARGV  1 owner  2 token of a response that was accepted before it ran ('' = none)  3 number of the batch's first event
--       4 number of events  5 their bytes  6 1 if nothing follows, else 0  7 seconds that the log lives on from now
--       8 value of the lock  9 ms that the lock lives on from now; of a batch that was brought before  10 how many pieces
--       it has  11 their bytes
-- Returns {'ok', 1} when it is there, be it from a repeat; {'ok', 0} when this writer may not write, or the log does
-- not end where the batch begins: it was deleted, has expired, is complete or has been begun anew; {'unstaged'} when
-- pieces that were brought are gone.

local response_key, log_key, lock_key, pieces_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local owner, token, first, count, frames = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local is_last, log_life, holder, lease_ms = ARGV[6] == '1', ARGV[7], ARGV[8], ARGV[9]
local brought, size = tonumber(ARGV[10] or 0), ARGV[11]

if not may_write(response_key, lock_key, token) then
  return { 'ok', 0 }
end

local id = string.format('%.0f-0', first + tonumber(count))
local at, newest, used = end_of_log(log_key)
if at ~= first then
  local same = redis.call('XRANGE', log_key, id, id)[1]
  local _, _, stored = pieces_in(same)
  return { 'ok', same and same[2][4] == frames and stored == tonumber(size) and 1 or 0 }
end
if brought > 0 and redis.call('LLEN', pieces_key) ~= used + brought then
  return { 'unstaged' }
end

if not newest then
  redis.call('XADD', log_key, '0-1', 'owner', owner, 'generation', holder)
end
local fields = { 'events', count, 'frames', frames }
if is_last then
  fields[5], fields[6] = 'last', '1'
end
if used + brought > 0 then
  fields[#fields + 1] = 'pieces'
  fields[#fields + 1] = used + brought .. (brought > 0 and ':' .. brought .. ':' .. size or '')
  redis.call('EXPIRE', pieces_key, log_life)
end
redis.call('XADD', log_key, id, unpack(fields))
if is_last then
  redis.call('DEL', lock_key)
else
  redis.call('SET', lock_key, holder, 'PX', lease_ms)
end
redis.call('EXPIRE', log_key, log_life)
return { 'ok', 1 }
