-- fork_branch: make a branch out of another's history, with entries behind it; under a name, or as the new MAIN.
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, conversation id, branch that is forked ('' = where the target lies), point, target (both: see
--       records.ForkPoint), new name ('' = becomes MAIN), backup name of the old MAIN, description,
--       number of entries, entries…
-- Returns {'ok', facts, branch (see describe), id of the last inherited item or '', name of the branch forked from or
-- '', backup's name or '', item bytes…}, or {'conversation_not_found'}, {'branch_not_found', name},
-- {'item_not_found', id}, {'branch_exists', name}, {'not_a_user_message', id}, {'not_a_message', id},
-- {'no_user_message', id}, {'response_unfinished', id}.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local fork, refusal = resolve_fork(KEYS[2], KEYS[3], KEYS[4], ARGV[3], ARGV[4], ARGV[5])
if not fork then
  return refusal
end
local name, backup = ARGV[6], ARGV[7]
if name ~= '' then
  name = string.lower(name) == 'main' and 'MAIN' or name
  if not name_is_free(KEYS[3], name) then
    return { 'branch_exists', name }
  end
end
local entries, unknown = read_entries(10, tonumber(ARGV[9]), KEYS[4])
if not entries then
  return { 'item_not_found', unknown }
end

local anchor = item_id(last_item(fork.base) or '') or ''
local line = create_line(fork.base, fork.pending, fork.line, anchor, ARGV[8], fork.mixed)
if #entries > 0 then
  append_to_branch(entries, line, KEYS[4], '', '')
end
if name ~= '' then
  name_line(KEYS[3], name, line)
  backup = ''
else
  backup = promote(KEYS[2], KEYS[3], line, backup)
end
local _, milliseconds = now()
redis.call('HSET', KEYS[2], 'updated_at', milliseconds)
local source = fork.line and redis.call('HGET', branch_key(fork.line), 'name') or ''
local reply = { 'ok', redis.call('HGETALL', KEYS[2]), describe(KEYS[2], line), anchor, source, backup }
for _, entry in ipairs(entries) do
  reply[#reply + 1] = entry.bytes
end
return reply
