-- activate_branch: make a branch the one that is meant where none is named.
-- needs: branch
-- prolongs: whole
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, name
-- Returns {'ok', facts} (flat field/value list), or {'conversation_not_found'}, {'branch_not_found', name}.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, name = ARGV[1], ARGV[2], ARGV[3]

local branch, refusal = find_branch(owner, conversation_key, conversation_id, branches_key, name)
if not branch then
  return refusal
end
local _, milliseconds = now()
redis.call('HSET', conversation_key, 'active_branch', branch.name, 'updated_at', milliseconds)
return { 'ok', redis.call('HGETALL', conversation_key) }
