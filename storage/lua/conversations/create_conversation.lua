-- create_conversation: make a partition with a conversation, its branch MAIN and its first items.
-- needs: append
-- prolongs: whole
-- KEYS  partition, conversation, branches, index, what was staged (if anything was)
-- ARGV  owner, id, title, project_id, referrer, number of metadata pairs, pairs…, number of entries, entries…
--       (title, project_id, referrer: empty for none)
-- Returns {'ok', created_at s, updated_at ms, item bytes…} ('' for what was staged), or {'exists'} when the partition is
-- taken, {'item_not_found', id} for an unknown reference, {'unstaged'} when what was staged is gone.
-- Repeating the same call (same owner and id) changes nothing and answers the same.

local conversation_key, branches_key, index_key, staged_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local owner, id, title, project_id, referrer = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local metadata_at = 6

local first_pair, last_pair, entries_at = list_at(metadata_at, 2)
local entries, _, unknown = read_entries(entries_at, conversation_key, index_key)
if unknown then
  return { 'item_not_found', unknown }
end

local function answer(created_at, updated_at)
  return add_bytes({ 'ok', created_at, updated_at }, entries)
end

if redis.call('EXISTS', PARTITION) == 1 then
  if owned(owner) and redis.call('HGET', conversation_key, 'id') == id then
    local times = redis.call('HMGET', conversation_key, 'created_at', 'updated_at')
    return answer(tonumber(times[1]), tonumber(times[2]))
  end
  return { 'exists' }
end
if is_unstaged(staged_key) then
  return { 'unstaged' }
end

local seconds, milliseconds = now()
local fields = { 'id', id, 'created_at', seconds, 'updated_at', milliseconds, 'active_branch', 'MAIN' }
for _, fact in ipairs({ { 'title', title }, { 'project_id', project_id }, { 'referrer', referrer } }) do
  if fact[2] ~= '' then
    fields[#fields + 1] = fact[1]
    fields[#fields + 1] = fact[2]
  end
end
for i = first_pair, last_pair, 2 do
  fields[#fields + 1] = 'm:' .. ARGV[i]
  fields[#fields + 1] = ARGV[i + 1]
end
redis.call('HSET', PARTITION, 'owner', owner, 'kept', 1)
local line = new_segment()
redis.call('HSET', branch_key(line), 'chain', line .. ':0:', 'pending', '', 'created_at', milliseconds, 'updated_at',
  milliseconds)
name_line(branches_key, 'MAIN', line)
if #entries > 0 then
  append_to_branch(entries, line, index_key, '', '', staged_key)
end
redis.call('HSET', conversation_key, unpack(fields))
return answer(seconds, milliseconds)
