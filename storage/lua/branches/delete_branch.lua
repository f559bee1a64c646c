-- delete_branch: forget a branch. Segments that no branch reads any more go at once, or expire with the last
-- response that reads them; what is left inside of segments that are still read is swept (sweep_segment).
-- needs: branch
-- prolongs: whole
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, name
-- Returns {'ok', facts}, or {'conversation_not_found'}, {'branch_not_found', name}, {'branch_protected', name} for MAIN
-- and the active branch, {'locked'} while a turn runs on it.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, name = ARGV[1], ARGV[2], ARGV[3]

local branch, refusal = find_branch(owner, conversation_key, conversation_id, branches_key, name)
if not branch then
  return refusal
end
local line = branch.line
if branch.name == 'MAIN' or redis.call('HGET', conversation_key, 'active_branch') == branch.name then
  return { 'branch_protected', branch.name }
end
if redis.call('EXISTS', BASE .. 'lock:' .. line) == 1 then
  return { 'locked' }
end

local reach = reach_of(chain_of(line))
reach[line] = reach[line] or 0
redis.call('ZREM', branches_key, branch.name)
redis.call('DEL', branch_key(line))
local _, milliseconds = now()
for segment in pairs(reach) do
  redis.call('ZREM', holders_key(segment), line)
  if redis.call('EXISTS', branch_key(segment), holders_key(segment)) == 0 then
    local needed_until = string.match(redis.call('HGET', PARTITION, 'reach:' .. segment) or '', '^(%d+):')
    if needed_until and tonumber(needed_until) > milliseconds then
      redis.call('PEXPIREAT', segment_key(segment), needed_until)
      pieces_of(segment, function(key) redis.call('PEXPIREAT', key, needed_until) end)
    else
      redis.call('UNLINK', segment_key(segment))
      pieces_of(segment, function(key) redis.call('UNLINK', key) end)
      redis.call('HDEL', PARTITION, 'reach:' .. segment)
    end
  end
end
redis.call('HSET', conversation_key, 'updated_at', milliseconds)
return { 'ok', redis.call('HGETALL', conversation_key) }
