-- update_branch: give a branch another name or description.
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, name, new name ('' = as it is), description ('-' = as it is, '=' .. text)
-- Returns {'ok', facts, branch (see describe)}, or {'conversation_not_found'}, {'branch_not_found', name},
-- {'branch_exists', name}, {'branch_protected', name} for another name for MAIN.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local line, name = line_named(KEYS[2], KEYS[3], ARGV[3])
if not line then
  return { 'branch_not_found', name }
end
local new_name = string.lower(ARGV[4]) == 'main' and 'MAIN' or ARGV[4]
local renamed = new_name ~= '' and new_name ~= name
if renamed and name == 'MAIN' then
  return { 'branch_protected', name }
end
if renamed and not name_is_free(KEYS[3], new_name) then
  return { 'branch_exists', new_name }
end

local _, milliseconds = now()
if renamed then
  redis.call('ZREM', KEYS[3], name)
  name_line(KEYS[3], new_name, line)
  if redis.call('HGET', KEYS[2], 'active_branch') == name then
    redis.call('HSET', KEYS[2], 'active_branch', new_name)
  end
end
if ARGV[5] == '=' then
  redis.call('HDEL', branch_key(line), 'description')
elseif ARGV[5] ~= '-' then
  redis.call('HSET', branch_key(line), 'description', string.sub(ARGV[5], 2))
end
redis.call('HSET', branch_key(line), 'updated_at', milliseconds)
redis.call('HSET', KEYS[2], 'updated_at', milliseconds)
return { 'ok', redis.call('HGETALL', KEYS[2]), describe(KEYS[2], line) }
