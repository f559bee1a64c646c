-- update_branch: give a branch another name or description.
-- needs: branch
-- prolongs: whole
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, name, new name ('' = as it is), description ('-' = as it is, '=' .. text)
-- Returns {'ok', facts, branch (see describe)}, or {'conversation_not_found'}, {'branch_not_found', name},
-- {'branch_exists', name}, {'branch_protected', name} for another name for MAIN.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, name, new_name, description = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local branch, refusal = find_branch(owner, conversation_key, conversation_id, branches_key, name)
if not branch then
  return refusal
end
if string.lower(new_name) == 'main' then
  new_name = 'MAIN'
end
local renamed = new_name ~= '' and new_name ~= branch.name
if renamed and branch.name == 'MAIN' then
  return { 'branch_protected', branch.name }
end
if renamed and not name_is_free(branches_key, new_name) then
  return { 'branch_exists', new_name }
end

local _, milliseconds = now()
if renamed then
  redis.call('ZREM', branches_key, branch.name)
  name_line(branches_key, new_name, branch.line)
  if redis.call('HGET', conversation_key, 'active_branch') == branch.name then
    redis.call('HSET', conversation_key, 'active_branch', new_name)
  end
end
if description == '=' then
  redis.call('HDEL', branch_key(branch.line), 'description')
elseif description ~= '-' then
  redis.call('HSET', branch_key(branch.line), 'description', string.sub(description, 2))
end
redis.call('HSET', branch_key(branch.line), 'updated_at', milliseconds)
redis.call('HSET', conversation_key, 'updated_at', milliseconds)
return { 'ok', redis.call('HGETALL', conversation_key), describe(conversation_key, branch.line) }
