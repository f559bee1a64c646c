-- read_item: one item of a conversation, on whichever branch it lies.
-- needs: common
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, conversation id, item id
-- Returns {'ok', item bytes}, or {'conversation_not_found'}, {'item_not_found', id}. Writes nothing.

local conversation_key, index_key = KEYS[2], KEYS[4]
local owner, conversation_id, item_id = ARGV[1], ARGV[2], ARGV[3]

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local bytes, _, _, places = load_item(index_key, item_id)
if not bytes or not on_any_branch(places) then
  return { 'item_not_found', item_id }
end
return { 'ok', bytes }
