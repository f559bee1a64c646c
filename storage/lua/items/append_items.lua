-- append_items: add entries to a branch of a conversation, all of them or none, in their order.
-- needs: append
-- prolongs: whole
-- KEYS  partition, conversation, branches, index, commit marker, what was staged (if anything was)
-- ARGV  owner, conversation id, branch ('' = active), marker's life s, most items of the branch (0 = any number),
--       number of entries, entries…
-- Returns {'ok', facts, item bytes…} (facts: flat field/value list; bytes '' for what was staged), or
-- {'conversation_not_found'}, {'branch_not_found', name}, {'item_not_found', id}, {'item_already_in_conversation', id},
-- {'history_full', branch}, {'unstaged'}: what was staged is gone.
-- The marker makes a repeat of the same call answer the same and append nothing.

local conversation_key, branches_key, index_key, marker_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local staged_key = KEYS[6]
local owner, conversation_id, name, marker_life, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local entries_at = 6

local branch, refusal = find_branch(owner, conversation_key, conversation_id, branches_key, name)
if not branch then
  return refusal
end
local entries, _, unknown = read_entries(entries_at, conversation_key, index_key)
if unknown then
  return { 'item_not_found', unknown }
end

local function answer()
  return add_bytes({ 'ok', redis.call('HGETALL', conversation_key) }, entries)
end

if redis.call('EXISTS', marker_key) == 1 then
  return answer()
end
if is_unstaged(staged_key) then
  return { 'unstaged' }
end
local chain = chain_of(branch.line)
for _, entry in ipairs(entries) do
  if entry.places and any_in_chain(chain, entry.places) then
    return { 'item_already_in_conversation', entry.id }
  end
end
local length = count_entries(entries)
for _, span in ipairs(chain) do
  length = length + span[3] - span[2]
end
if most > 0 and length > most then
  return { 'history_full', conversation_id }
end
append_to_branch(entries, branch.line, index_key, '', '', staged_key)
local _, milliseconds = now()
redis.call('HSET', conversation_key, 'updated_at', milliseconds)
redis.call('SET', marker_key, 1, 'EX', marker_life)
return answer()
