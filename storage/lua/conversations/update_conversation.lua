-- update_conversation: merge metadata, set or clear title, project_id, referrer; all or nothing.
-- KEYS  partition, conversation
-- ARGV  owner, id, most metadata pairs, number of fields, (name, '=' .. value or '-')…
--       (a metadata field's name is 'm:' .. key)
-- Returns {'ok', facts before, facts after} (flat field/value lists), {'conversation_not_found'}, or
-- {'too_many_metadata'}.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local before = redis.call('HGETALL', KEYS[2])
local metadata, count = {}, 0
for i = 1, #before, 2 do
  if string.sub(before[i], 1, 2) == 'm:' then
    metadata[before[i]] = true
    count = count + 1
  end
end
local set, drop = {}, {}
for i = 0, tonumber(ARGV[4]) - 1 do
  local name, change = ARGV[5 + i * 2], ARGV[6 + i * 2]
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
if count > tonumber(ARGV[3]) then
  return { 'too_many_metadata' }
end
local _, milliseconds = now()
set[#set + 1] = 'updated_at'
set[#set + 1] = milliseconds
if #drop > 0 then
  redis.call('HDEL', KEYS[2], unpack(drop))
end
redis.call('HSET', KEYS[2], unpack(set))
return { 'ok', before, redis.call('HGETALL', KEYS[2]) }
