-- list_branches: one page of a conversation's branches, in the order in which they were made.
-- needs: branch
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, after (a name, '' = none), limit, 'asc' or 'desc'
-- Returns {'ok', name of the active branch, more (0 or 1), branches (see describe)…}, or {'conversation_not_found'},
-- {'cursor_not_found', name}. Writes nothing.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, after, limit, order = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local rank_of, range = 'ZRANK', 'ZRANGE'
if order == 'desc' then
  rank_of, range = 'ZREVRANK', 'ZREVRANGE'
end
local start = 0
if after ~= '' then
  local _, name = line_named(conversation_key, branches_key, after)
  local rank = redis.call(rank_of, branches_key, name)
  if not rank then
    return { 'cursor_not_found', after }
  end
  start = rank + 1
end
local found = redis.call(range, branches_key, start, start + limit, 'WITHSCORES')
local reply = { 'ok', redis.call('HGET', conversation_key, 'active_branch'), #found / 2 > limit and 1 or 0 }
for i = 2, math.min(#found, limit * 2), 2 do
  reply[#reply + 1] = describe(conversation_key, tonumber(found[i]))
end
return reply
