-- resolve_items: stored items by id, for references from another partition.
-- needs: common
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, item ids…
-- Returns {'ok', item bytes or '' …} in the order asked. Everything is '' for a foreign owner. Writes nothing.

local conversation_key, index_key = KEYS[2], KEYS[4]
local owner = ARGV[1]
local first_id = 2

local reply = { 'ok' }
local mine = owned(owner)
for i = first_id, #ARGV do
  reply[#reply + 1] = mine and find_item(conversation_key, index_key, ARGV[i]) or ''
end
return reply
