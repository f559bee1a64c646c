-- activate_branch: make a branch the one that is meant where none is named.
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, name
-- Returns {'ok', facts} (flat field/value list), or {'conversation_not_found'}, {'branch_not_found', name}.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local line, name = line_named(KEYS[2], KEYS[3], ARGV[3])
if not line then
  return { 'branch_not_found', name }
end
local _, milliseconds = now()
redis.call('HSET', KEYS[2], 'active_branch', name, 'updated_at', milliseconds)
return { 'ok', redis.call('HGETALL', KEYS[2]) }
