-- scan_items: all living items that the branches of a conversation read, each once, segment by segment.
-- needs: view
-- KEYS  partition, conversation
-- ARGV  owner, conversation id, segment and offset to begin with, bytes after which it pauses, bytes of an item of which
--       only the beginning is shown
-- Returns {'ok', segment, offset to go on with (-1: the end), {segment, offset, bytes, size}…}, or
-- {'conversation_not_found'}. Of a segment that its branch has left behind all is read that any branch may read. Writes
-- nothing.

local conversation_key = KEYS[2]
local owner, conversation_id, segment, offset = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local most_bytes, most_shown = tonumber(ARGV[5]), tonumber(ARGV[6])
local STEP = 20

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
-- How far the branches read a segment.
local function reach(number)
  if redis.call('EXISTS', branch_key(number)) == 1 then
    return redis.call('LLEN', segment_key(number))
  end
  return tonumber(redis.call('ZREVRANGE', holders_key(number), 0, 0, 'WITHSCORES')[2] or 0)
end
local found, bytes = {}, 0
local past = tonumber(redis.call('HGET', PARTITION, 'next_segment') or '0')
while segment < past and bytes < most_bytes do
  local to = reach(segment)
  while offset < to and bytes < most_bytes do
    local stop = math.min(offset + STEP, to)
    for i, element in ipairs(redis.call('LRANGE', segment_key(segment), offset, stop - 1)) do
      bytes = bytes + #element
      if element ~= '' then
        local item = shown(element, most_shown)
        found[#found + 1] = { segment, offset + i - 1, item[1], item[2] }
      end
    end
    offset = stop
  end
  if offset >= to then
    segment, offset = segment + 1, 0
  end
end
return { 'ok', segment, segment < past and offset or -1, found }
