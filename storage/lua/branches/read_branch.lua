-- read_branch: one branch.
-- needs: branch
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, name
-- Returns {'ok', branch (see describe)}, or {'conversation_not_found'}, {'branch_not_found', name}. Writes nothing.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, name = ARGV[1], ARGV[2], ARGV[3]

local branch, refusal = find_branch(owner, conversation_key, conversation_id, branches_key, name)
if not branch then
  return refusal
end
return { 'ok', describe(conversation_key, branch.line) }
