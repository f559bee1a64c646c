-- read_branch: one branch.
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, name
-- Returns {'ok', branch (see describe)}, or {'conversation_not_found'}, {'branch_not_found', name}. Writes nothing.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local line, name = line_named(KEYS[2], KEYS[3], ARGV[3])
if not line then
  return { 'branch_not_found', name }
end
return { 'ok', describe(KEYS[2], line) }
