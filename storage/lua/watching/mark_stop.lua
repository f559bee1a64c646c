-- mark_stop: have the turn that runs on a branch end with what it has, whichever process runs it.
-- needs: view, response
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, branch ('' = active), id of the response that the turn makes, ms that the mark lives
-- Returns {'ok', 1 if that turn holds the branch, else 0, 1 if it waits for a worker, else 0}, or
-- {'conversation_not_found'}. The process that runs it finds the mark when it renews its lock (renew_lease).

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, wanted, response_id, life = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local line, name = line_named(conversation_key, branches_key, wanted)
local lock = line or '=' .. name
if response_id == '' or running_with(lock) ~= response_id then
  return { 'ok', 0, 0 }
end
if redis.call('HGET', BASE .. 'response:' .. response_id, 'status') == 'queued' then
  return { 'ok', 1, 1 }
end
redis.call('SET', BASE .. 'stop:' .. lock, redis.call('GET', BASE .. 'lock:' .. lock), 'PX', life)
return { 'ok', 1, 0 }
