-- graph_branches: all branches of a conversation with their chains, those that were used last.
-- needs: view
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, most branches, most tombstones
-- Returns {'ok', name of the active branch, how many were left out, scores of tombstones,
--   {line, name, closed chain, items (-1: all of it, none was deleted), created_at ms, updated_at ms, parent, forked_at,
--   forked_from, description, id of the response that is being made there}…}, '' where there is nothing; or
-- {'conversation_not_found'}. Writes nothing.
-- MAIN and the active branch are always there. Of more than LOOKED_AT only the newest are asked when they were used.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, most, most_tombstones = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local LOOKED_AT = 5000

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local main = tonumber(redis.call('ZSCORE', branches_key, 'MAIN'))
local active, active_name = line_named(conversation_key, branches_key, '')
local used, seen = {}, {}
local function look(line)
  if line and not seen[line] then
    seen[line] = true
    local time = tonumber(redis.call('HGET', branch_key(line), 'updated_at')) or 0
    used[#used + 1] = { line = line, time = time, stays = line == main or line == active }
  end
end
look(main)
look(active)
local newest = redis.call('ZREVRANGE', branches_key, 0, LOOKED_AT - 1, 'WITHSCORES')
for i = 2, #newest, 2 do
  look(tonumber(newest[i]))
end
local function newer(one, other)
  return one.time > other.time or one.time == other.time and one.line > other.line
end
table.sort(used, function(one, other)
  if one.stays ~= other.stays then
    return one.stays
  end
  return newer(one, other)
end)
local chosen = {}
for i = 1, math.min(#used, most) do
  chosen[i] = used[i]
end
table.sort(chosen, newer)

local has_gaps = redis.call('EXISTS', BASE .. 'tombstones') == 1
local scores, tombstones = redis.call('ZRANGE', BASE .. 'tombstones', 0, most_tombstones - 1, 'WITHSCORES'), {}
for i = 2, #scores, 2 do
  tombstones[#tombstones + 1] = scores[i]
end
local reply = { 'ok', active_name, redis.call('ZCARD', branches_key) - #chosen, tombstones }
for _, one in ipairs(chosen) do
  local facts = redis.call('HMGET', branch_key(one.line), 'name', 'chain', 'created_at', 'updated_at', 'parent',
    'forked_at', 'forked_from', 'description')
  -- to take a chain apart is most of what this costs
  local inherited, from = string.match(facts[2], '^(.-),?%d+:(%d+):$')
  local length = redis.call('LLEN', segment_key(one.line))
  local closed = length > tonumber(from) and facts[2] .. length or inherited
  reply[#reply + 1] = { one.line, facts[1], closed, has_gaps and count_items(parse_chain(closed)) or -1, facts[3],
    facts[4], facts[5] or '', facts[6] or '', facts[7] or '', facts[8] or '', running_with(one.line) }
end
return reply
