-- append_items: add entries to a branch of a conversation, all of them or none, in their order.
-- KEYS  partition, conversation, branches, index, commit marker
-- ARGV  owner, conversation id, branch ('' = active), marker's life s, number of entries, entries…
-- Returns {'ok', facts, item bytes…} (facts: flat field/value list), or {'conversation_not_found'},
-- {'branch_not_found', name}, {'item_not_found', id}, {'item_already_in_conversation', id}.
-- The marker makes a repeat of the same call answer the same and append nothing.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local line, branch = line_named(KEYS[2], KEYS[3], ARGV[3])
if not line then
  return { 'branch_not_found', branch }
end
local entries, unknown = read_entries(6, tonumber(ARGV[5]), KEYS[4])
if not entries then
  return { 'item_not_found', unknown }
end

local function answer()
  local reply = { 'ok', redis.call('HGETALL', KEYS[2]) }
  for _, entry in ipairs(entries) do
    reply[#reply + 1] = entry.bytes
  end
  return reply
end

if redis.call('EXISTS', KEYS[5]) == 1 then
  return answer()
end
local chain = chain_of(line)
for _, entry in ipairs(entries) do
  if entry.places and any_in_chain(chain, entry.places) then
    return { 'item_already_in_conversation', entry.id }
  end
end
append_to_branch(entries, line, KEYS[4], '', '')
local _, milliseconds = now()
redis.call('HSET', KEYS[2], 'updated_at', milliseconds)
redis.call('SET', KEYS[5], 1, 'EX', ARGV[4])
return answer()
