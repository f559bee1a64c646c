-- list_branches: one page of a conversation's branches, in the order in which they were made.
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, after (a name, '' = none), limit, 'asc' or 'desc'
-- Returns {'ok', name of the active branch, more (0 or 1), branches (see describe)…}, or {'conversation_not_found'},
-- {'cursor_not_found', name}. Writes nothing.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local rank_of, range = 'ZRANK', 'ZRANGE'
if ARGV[5] == 'desc' then
  rank_of, range = 'ZREVRANK', 'ZREVRANGE'
end
local start, limit = 0, tonumber(ARGV[4])
if ARGV[3] ~= '' then
  local _, name = line_named(KEYS[2], KEYS[3], ARGV[3])
  local rank = redis.call(rank_of, KEYS[3], name)
  if not rank then
    return { 'cursor_not_found', ARGV[3] }
  end
  start = rank + 1
end
local found = redis.call(range, KEYS[3], start, start + limit, 'WITHSCORES')
local reply = { 'ok', redis.call('HGET', KEYS[2], 'active_branch'), #found / 2 > limit and 1 or 0 }
for i = 2, math.min(#found, limit * 2), 2 do
  reply[#reply + 1] = describe(KEYS[2], tonumber(found[i]))
end
return reply
