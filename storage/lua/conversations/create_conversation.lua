-- create_conversation: make a partition with a conversation, its branch MAIN and its first items.
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, id, title, project_id, referrer, number of metadata pairs, pairs…, number of entries, entries…
--       (title, project_id, referrer: empty for none)
-- Returns {'ok', created_at s, updated_at ms, item bytes…}, or {'exists'} when the partition is taken, or
-- {'item_not_found', id} for an unknown reference.
-- Repeating the same call (same owner and id) changes nothing and answers the same.

local owner, id = ARGV[1], ARGV[2]
local pairs_count = tonumber(ARGV[6])
local at = 7 + pairs_count * 2
local entries, unknown = read_entries(at + 1, tonumber(ARGV[at]), KEYS[4])
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

if redis.call('EXISTS', KEYS[1]) == 1 then
  if owned(owner) and redis.call('HGET', KEYS[2], 'id') == id then
    local times = redis.call('HMGET', KEYS[2], 'created_at', 'updated_at')
    return answer(tonumber(times[1]), tonumber(times[2]))
  end
  return { 'exists' }
end

local seconds, milliseconds = now()
local fields = { 'id', id, 'created_at', seconds, 'updated_at', milliseconds, 'active_branch', 'MAIN' }
for i, name in ipairs({ 'title', 'project_id', 'referrer' }) do
  if ARGV[2 + i] ~= '' then
    fields[#fields + 1] = name
    fields[#fields + 1] = ARGV[2 + i]
  end
end
for i = 7, at - 1, 2 do
  fields[#fields + 1] = 'm:' .. ARGV[i]
  fields[#fields + 1] = ARGV[i + 1]
end
redis.call('HSET', KEYS[1], 'owner', owner, 'kept', 1)
local line = new_segment()
redis.call('HSET', branch_key(line), 'chain', line .. ':0:', 'pending', '', 'created_at', milliseconds, 'updated_at',
  milliseconds)
name_line(KEYS[3], 'MAIN', line)
if #entries > 0 then
  append_to_branch(entries, line, KEYS[4], '', '')
end
redis.call('HSET', KEYS[2], unpack(fields))
return answer(seconds, milliseconds)
