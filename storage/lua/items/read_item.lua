-- read_item: one item of a conversation, on whichever branch it lies.
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, conversation id, item id
-- Returns {'ok', item bytes}, or {'conversation_not_found'}, {'item_not_found', id}. Writes nothing.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local bytes, _, _, places = load_item(KEYS[4], ARGV[3])
if not bytes or not on_any_branch(places) then
  return { 'item_not_found', ARGV[3] }
end
return { 'ok', bytes }
