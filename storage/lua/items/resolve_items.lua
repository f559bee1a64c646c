-- resolve_items: stored items by id, for references from another partition.
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, item ids…
-- Returns {'ok', item bytes or '' …} in the order asked. Everything is '' for a foreign owner. Writes nothing.

local reply = { 'ok' }
local mine = owned(ARGV[1])
for i = 2, #ARGV do
  reply[i] = mine and find_item(KEYS[2], KEYS[4], ARGV[i]) or ''
end
return reply
