-- read_pulse: how a branch that is watched stands.
-- needs: view
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, branch ('' = active)
-- Returns {'ok', updated_at of the conversation in ms, active branch, title or '', number of branches, segment and offset
--   behind the last place (-1, -1: no such branch), id of the response that runs there or '', 1 if its events are kept},
-- or {'conversation_not_found'}. Writes nothing. A branch that a turn is about to make has no place yet.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, wanted = ARGV[1], ARGV[2], ARGV[3]

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local facts = redis.call('HMGET', conversation_key, 'updated_at', 'active_branch', 'title')
local line, name = line_named(conversation_key, branches_key, wanted)
local segment, offset = -1, -1
if line then
  segment, offset = line, redis.call('LLEN', segment_key(line))
end
local running = running_with(line or '=' .. name)
local is_kept_log = running ~= '' and redis.call('EXISTS', BASE .. 'events:' .. running, BASE .. 'lock:~' .. running) > 0
return { 'ok', facts[1], facts[2], facts[3] or '', redis.call('ZCARD', branches_key), segment, offset, running,
  is_kept_log and 1 or 0 }
