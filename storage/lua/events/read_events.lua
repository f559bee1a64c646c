-- read_events: what a log holds from an event on, and whether more will come.
-- needs: common, response
-- KEYS  partition, response, log, writer's lock
-- ARGV  1 owner  2 number of the first event that is wanted  3 bytes after which no further entries are read
-- Returns {'ok', batches, generation, running, ended, status}
--   batches: for each {number of the event after it, number of events, bytes}, the first one with the wanted event;
--   generation: '' when there is no log; running: 1 if somebody may still write; ended: 1 if nothing follows what
--   was returned; status: the response's, '' while there is no record of it
-- or {'response_not_found'}. Writes nothing. What a log consists of: append_events.

local response_key, log_key, lock_key = KEYS[2], KEYS[3], KEYS[4]
local owner, first, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local CHUNK_ENTRIES = 32
local response = owned(owner) and redis.call('HMGET', response_key, 'status', 'streamed') or {}
local head = redis.call('XRANGE', log_key, '0-1', '0-1')[1]
if head and head[2][2] ~= owner or not head and not response[1] then
  return { 'response_not_found' }
end
local unfinished = is_unfinished(response[1])
local generation = head and head[2][4] or ''
if not head and unfinished and response[2] == '1' then
  -- it has not been begun yet
  generation = '-'
end

local batches, bytes, ended = {}, 0, 0
local from = string.format('%.0f-0', first + 1)
while head and bytes < most_bytes and ended == 0 do
  local entries = redis.call('XRANGE', log_key, from, '+', 'COUNT', CHUNK_ENTRIES)
  for _, entry in ipairs(entries) do
    local following = string.match(entry[1], '^%d+')
    batches[#batches + 1] = { tonumber(following), tonumber(entry[2][2]), entry[2][4] }
    bytes = bytes + #entry[2][4]
    ended = entry[2][5] == 'last' and 1 or 0
    from = string.format('%.0f-0', tonumber(following) + 1)
  end
  if #entries < CHUNK_ENTRIES then
    break
  end
end

local running = (unfinished or redis.call('EXISTS', lock_key) == 1) and 1 or 0
if head and running == 0 and #batches == 0 then
  local newest = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
  ended = newest[2][5] == 'last' and 1 or 0
end
return { 'ok', batches, generation, running, ended, response[1] or '' }
