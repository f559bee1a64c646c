-- find_id: what an id is, and which conversation and branch lead to it.
-- needs: view
-- KEYS  partition, conversation, branches, index, response of this id
-- ARGV  owner, id
-- Returns {'ok', 'conversation', 'response' or 'item', id of the conversation, branch, id of the response}, '' where there
-- is none; or {'item_not_found', id}. Writes nothing.

local conversation_key, branches_key, index_key, response_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local owner, id = ARGV[1], ARGV[2]

if not owned(owner) then
  return { 'item_not_found', id }
end
local facts = redis.call('HMGET', conversation_key, 'id', 'deleted_at', 'active_branch')
local lives = facts[1] and not facts[2]
if lives and facts[1] == id then
  return { 'ok', 'conversation', id, facts[3], '' }
end

-- The conversation and the branch that have one of these places.
local function where(places)
  local line = lives and branch_with(conversation_key, branches_key, places)
  if line then
    return facts[1], redis.call('HGET', branch_key(line), 'name')
  end
  return '', ''
end

local chains = redis.call('HMGET', response_key, 'status', 'output', 'context')
if chains[1] then
  local chain = parse_chain((chains[2] or '') ~= '' and chains[2] or chains[3])
  local last = chain[#chain]
  local conversation_id, branch = '', ''
  if last then
    conversation_id, branch = where({ { last[1], last[3] - 1 } })
  end
  return { 'ok', 'response', conversation_id, branch, id }
end
local element, place, _, places = find_item(conversation_key, index_key, id)
if not element then
  return { 'item_not_found', id }
end
local conversation_id, branch = where(places)
local response_id = append_at(place[1], place[2])
return { 'ok', 'item', conversation_id, branch, response_id }
