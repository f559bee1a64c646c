-- fork_branch: make a branch out of another's history, with entries behind it; under a name, or as the new MAIN.
-- needs: append
-- prolongs: whole
-- KEYS  partition, conversation, branches, index, what was staged (if anything was)
-- ARGV  owner, conversation id, branch that is forked ('' = where the target lies), point, target (both: see
--       records.ForkPoint), new name ('' = becomes MAIN), backup name of the old MAIN, description,
--       number of entries, entries…
-- Returns {'ok', facts, branch (see describe), id of the last inherited item or '', name of the branch forked from or
-- '', backup's name or '', item bytes… ('' for what was staged)}, {'unstaged'} when that is gone, or
-- {'conversation_not_found'}, {'branch_not_found', name},
-- {'item_not_found', id}, {'branch_exists', name}, {'not_a_user_message', id}, {'not_a_message', id},
-- {'no_user_message', id}, {'response_unfinished', id}.

local conversation_key, branches_key, index_key, staged_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local owner, conversation_id, source_name, point, target = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local name, backup, description = ARGV[6], ARGV[7], ARGV[8]
local entries_at = 9

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local fork, refusal = resolve_fork(conversation_key, branches_key, index_key, source_name, point, target)
if not fork then
  return refusal
end
if name ~= '' then
  name = string.lower(name) == 'main' and 'MAIN' or name
  if not name_is_free(branches_key, name) then
    return { 'branch_exists', name }
  end
end
local entries, _, unknown = read_entries(entries_at, conversation_key, index_key)
if unknown then
  return { 'item_not_found', unknown }
end
if is_unstaged(staged_key) then
  return { 'unstaged' }
end

local anchor = item_id(last_item(fork.base) or '') or ''
local line = create_line(fork.base, fork.pending, fork.line, anchor, description, fork.mixed)
if #entries > 0 then
  append_to_branch(entries, line, index_key, '', '', staged_key)
end
if name ~= '' then
  name_line(branches_key, name, line)
  backup = ''
else
  backup = promote(conversation_key, branches_key, line, backup)
end
local _, milliseconds = now()
redis.call('HSET', conversation_key, 'updated_at', milliseconds)
local source = fork.line and redis.call('HGET', branch_key(fork.line), 'name') or ''
local facts = redis.call('HGETALL', conversation_key)
return add_bytes({ 'ok', facts, describe(conversation_key, line), anchor, source, backup }, entries)
