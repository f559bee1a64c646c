-- delete_branch: forget a branch. Segments that no branch reads any more go at once, or expire with the last
-- response that reads them; what is left inside of segments that are still read is swept (sweep_segment).
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, name
-- Returns {'ok', facts}, or {'conversation_not_found'}, {'branch_not_found', name}, {'branch_protected', name} for MAIN and
-- the active branch, {'locked'} while a turn runs on it.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local line, name = line_named(KEYS[2], KEYS[3], ARGV[3])
if not line then
  return { 'branch_not_found', name }
end
if name == 'MAIN' or redis.call('HGET', KEYS[2], 'active_branch') == name then
  return { 'branch_protected', name }
end
if redis.call('EXISTS', BASE .. 'lock:' .. line) == 1 then
  return { 'locked' }
end

local reach = reach_of(chain_of(line))
reach[line] = reach[line] or 0
redis.call('ZREM', KEYS[3], name)
redis.call('DEL', branch_key(line))
local _, milliseconds = now()
for segment in pairs(reach) do
  redis.call('ZREM', holders_key(segment), line)
  if redis.call('EXISTS', branch_key(segment), holders_key(segment)) == 0 then
    local needed_until = string.match(redis.call('HGET', KEYS[1], 'reach:' .. segment) or '', '^(%d+):')
    if needed_until and tonumber(needed_until) > milliseconds then
      redis.call('PEXPIREAT', segment_key(segment), needed_until)
    else
      redis.call('UNLINK', segment_key(segment))
      redis.call('HDEL', KEYS[1], 'reach:' .. segment)
    end
  end
end
redis.call('HSET', KEYS[2], 'updated_at', milliseconds)
return { 'ok', redis.call('HGETALL', KEYS[2]) }
