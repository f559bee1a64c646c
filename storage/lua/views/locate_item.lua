-- locate_item: an item of a conversation, where it lies, and what brought it.
-- needs: view
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, conversation id, item id
-- Returns {'ok', element, places (`segment:offset` joined with ','), branch, id of the response or '', model or ''}, or
-- {'conversation_not_found'}, {'item_not_found', id}. Writes nothing.

local conversation_key, branches_key, index_key = KEYS[2], KEYS[3], KEYS[4]
local owner, conversation_id, id = ARGV[1], ARGV[2], ARGV[3]

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local element, place, _, places = load_item(index_key, id)
local line
if element then
  line = branch_with(conversation_key, branches_key, places)
end
if not line then
  return { 'item_not_found', id }
end
local listed = {}
for i, one in ipairs(places) do
  listed[i] = one[1] .. ':' .. one[2]
end
return { 'ok', element, table.concat(listed, ','), redis.call('HGET', branch_key(line), 'name'),
  append_at(place[1], place[2]) }
