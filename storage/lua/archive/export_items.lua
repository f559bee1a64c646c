-- export_items: items of a segment as they lie there, with their marks.
-- needs: common
-- KEYS  partition, conversation, index
-- ARGV  owner, conversation id, segment, from, to (exclusive), most bytes
-- Returns {'ok', bytes, mark, bytes, mark…}, at least one item; bytes are '' for a deleted item, the mark is false when
-- the item is not in the index; or {'conversation_not_found'}. Writes nothing.

local conversation_key, index_key = KEYS[2], KEYS[3]
local owner, conversation_id, segment = ARGV[1], ARGV[2], ARGV[3]
local from, to, budget = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local STEP = 50

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local reply, size = { 'ok' }, 0
while from < to and size < budget do
  local high = math.min(from + STEP, to)
  local items = redis.call('LRANGE', segment_key(segment), from, high - 1)
  local ids = {}
  for i = 1, high - from do
    ids[i] = string.match(items[i] or '', '^{"id":"([^"]+)"') or ''
  end
  local values = redis.call('HMGET', index_key, unpack(ids))
  for i = 1, high - from do
    local bytes = items[i] or ''
    reply[#reply + 1] = bytes
    reply[#reply + 1] = values[i] and string.match(values[i], '^%S+ ?(.*)$')
    size = size + #bytes
  end
  from = high
end
return reply
