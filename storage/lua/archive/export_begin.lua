-- export_begin: what a conversation consists of at this moment; its segments are kept while the export runs.
-- needs: common
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, hold s
-- Returns {'ok', facts (flat field/value list), next segment's number, branches…} or {'conversation_not_found'}.
--   A branch: {line, closed chain, field, value…}.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, hold_seconds = ARGV[1], ARGV[2], tonumber(ARGV[3])

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local reply = { 'ok', redis.call('HGETALL', conversation_key), tonumber(redis.call('HGET', PARTITION, 'next_segment')) }
local reach = {}
local names = redis.call('ZRANGE', branches_key, 0, -1, 'WITHSCORES')
for i = 2, #names, 2 do
  local line = tonumber(names[i])
  local chain = close_chain(parse_chain(redis.call('HGET', branch_key(line), 'chain')))
  for segment, to in pairs(reach_of(chain)) do
    reach[segment] = math.max(reach[segment] or 0, to)
  end
  local branch = { line, format_chain(chain) }
  for _, part in ipairs(redis.call('HGETALL', branch_key(line))) do
    branch[#branch + 1] = part
  end
  reply[#reply + 1] = branch
end
local _, milliseconds = now()
for segment, to in pairs(reach) do
  note_reach(segment, to, milliseconds + hold_seconds * 1000)
end
return reply
