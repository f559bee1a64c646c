-- excerpt_items: how the first message of each of some spans begins.
-- needs: view
-- KEYS  partition, conversation
-- ARGV  owner, conversation id, spans: segment, from, to…
-- Returns {'ok', {bytes, size}…}: the beginning of the first living message of a span, else of its first living item, {}
-- where there is none; or {'conversation_not_found'}. No more than LOOKED_AT items of a span are looked at. Writes nothing.

local conversation_key = KEYS[2]
local owner, conversation_id = ARGV[1], ARGV[2]
local first_span = 3
local LOOKED_AT = 8

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local function first_of(segment, from, to)
  local found
  for offset = from, math.min(to, from + LOOKED_AT) - 1 do
    local element = redis.call('LINDEX', segment_key(segment), offset)
    if element and element ~= '' then
      if string.find(element, MESSAGE) then
        return element
      end
      found = found or element
    end
  end
  return found
end
local reply = { 'ok' }
for i = first_span, #ARGV, 3 do
  local segment = ARGV[i]
  local is_read = redis.call('EXISTS', branch_key(segment), holders_key(segment)) > 0
  reply[#reply + 1] = excerpt(is_read and first_of(segment, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])))
end
return reply
