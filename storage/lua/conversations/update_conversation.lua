-- update_conversation: merge metadata, set or clear title, project_id, referrer; all or nothing.
-- needs: common
-- prolongs: whole
-- KEYS  partition, conversation
-- ARGV  owner, id, most metadata pairs, number of fields, (name, '=' .. value or '-')…
--       (a metadata field's name is 'm:' .. key)
-- Returns {'ok', facts before, facts after} (flat field/value lists), {'conversation_not_found'}, or
-- {'too_many_metadata'}.

local conversation_key = KEYS[2]
local owner, conversation_id, most_metadata = ARGV[1], ARGV[2], tonumber(ARGV[3])
local changes_at = 4

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local before = redis.call('HGETALL', conversation_key)
local metadata, count = {}, 0
for i = 1, #before, 2 do
  if string.sub(before[i], 1, 2) == 'm:' then
    metadata[before[i]] = true
    count = count + 1
  end
end
local set, drop = {}, {}
local first, last = list_at(changes_at, 2)
for i = first, last, 2 do
  local name, change = ARGV[i], ARGV[i + 1]
  local is_metadata = string.sub(name, 1, 2) == 'm:'
  if change == '-' then
    drop[#drop + 1] = name
    if is_metadata and metadata[name] then
      metadata[name] = nil
      count = count - 1
    end
  else
    set[#set + 1] = name
    set[#set + 1] = string.sub(change, 2)
    if is_metadata and not metadata[name] then
      metadata[name] = true
      count = count + 1
    end
  end
end
if count > most_metadata then
  return { 'too_many_metadata' }
end
local _, milliseconds = now()
set[#set + 1] = 'updated_at'
set[#set + 1] = milliseconds
if #drop > 0 then
  redis.call('HDEL', conversation_key, unpack(drop))
end
redis.call('HSET', conversation_key, unpack(set))
return { 'ok', before, redis.call('HGETALL', conversation_key) }
