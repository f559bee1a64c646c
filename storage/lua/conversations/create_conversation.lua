-- create_conversation: make a partition with a conversation, its branch MAIN and its first items.
-- needs: append
-- prolongs: whole
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, id, title, project_id, referrer, number of metadata pairs, pairs…, number of entries, entries…
--       (title, project_id, referrer: empty for none)
-- Returns {'ok', created_at s, updated_at ms, item bytes…}, or {'exists'} when the partition is taken, or
-- {'item_not_found', id} for an unknown reference.
-- Repeating the same call (same owner and id) changes nothing and answers the same.

local conversation_key, branches_key, index_key = KEYS[2], KEYS[3], KEYS[4]
local owner, id, title, project_id, referrer = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local metadata_at = 6

local first_pair, last_pair, entries_at = list_at(metadata_at, 2)
local entries, unknown = read_entries(entries_at, conversation_key, index_key)
if not entries then
  return { 'item_not_found', unknown }
end

local function answer(created_at, updated_at)
  local reply = { 'ok', created_at, updated_at }
  for _, entry in ipairs(entries) do
    reply[#reply + 1] = entry.bytes
  end
  return reply
end

if redis.call('EXISTS', PARTITION) == 1 then
  if owned(owner) and redis.call('HGET', conversation_key, 'id') == id then
    local times = redis.call('HMGET', conversation_key, 'created_at', 'updated_at')
    return answer(tonumber(times[1]), tonumber(times[2]))
  end
  return { 'exists' }
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
  append_to_branch(entries, line, index_key, '', '')
end
redis.call('HSET', conversation_key, unpack(fields))
return answer(seconds, milliseconds)
