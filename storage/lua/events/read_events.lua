-- read_events: what a log holds from an event on, and whether more will come.
-- needs: common, log
-- KEYS  partition, response, log, writer's lock
-- ARGV  1 owner  2 number of the first event that is wanted  3 bytes after which no further entries are read
-- Returns {'ok', batches, generation, running, ended, status}
--   batches: for each {number of the event after it, number of events, bytes}, the first one with the wanted event; of
--   one in pieces the bytes are '', and behind them is the place of its first piece, and how many there are;
--   generation: '' when there is no log; running: 1 if somebody may still write; ended: 1 if nothing follows what
--   was returned; status: the response's, '' while there is no record of it
-- or {'response_not_found'}. Writes nothing.

local response_key, log_key, lock_key = KEYS[2], KEYS[3], KEYS[4]
local owner, first, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- Entries that are read at a time: each may have as much as one command stores. While they are short it is more and more.
local FEW, MANY, SHORT_BYTES = 8, 32, 65536
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

local batches, bytes, ended, chunk = {}, 0, 0, FEW
local from = string.format('%.0f-0', first + 1)
while head and bytes < most_bytes and ended == 0 do
  local entries = redis.call('XRANGE', log_key, from, '+', 'COUNT', chunk)
  local before = bytes
  for _, entry in ipairs(entries) do
    local following = string.match(entry[1], '^%d+')
    local batch = { tonumber(following), tonumber(entry[2][2]), entry[2][4] }
    local past, count, size = pieces_in(entry)
    if count then
      batch[4], batch[5], bytes = past - count, count, bytes + size
    end
    batches[#batches + 1] = batch
    bytes = bytes + #entry[2][4]
    ended = entry[2][5] == 'last' and 1 or 0
    from = string.format('%.0f-0', tonumber(following) + 1)
  end
  if #entries < chunk then
    break
  end
  chunk = bytes - before < SHORT_BYTES and math.min(chunk * 2, MANY) or FEW
end

local running = (unfinished or redis.call('EXISTS', lock_key) == 1) and 1 or 0
if head and running == 0 and #batches == 0 then
  local newest = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
  ended = newest[2][5] == 'last' and 1 or 0
end
return { 'ok', batches, generation, running, ended, response[1] or '' }
