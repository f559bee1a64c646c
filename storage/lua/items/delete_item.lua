-- delete_item: remove one item for good, from every branch and every snapshot; the others keep ids and order.
-- needs: branch
-- prolongs: whole
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, conversation id, item id, branch that it must be on ('' = any), new edition
-- Returns {'ok', facts (flat field/value list), bytes that were freed}, or {'conversation_not_found'},
-- {'branch_not_found', name}, {'item_not_found', id}.

local conversation_key, branches_key, index_key = KEYS[2], KEYS[3], KEYS[4]
local owner, conversation_id, id, name, edition = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local line, found
if name ~= '' then
  line, found = line_named(conversation_key, branches_key, name)
  if not line then
    return { 'branch_not_found', found }
  end
end
local bytes, _, mark, places = load_item(index_key, id)
if not bytes or not on_any_branch(places) or (line and not any_in_chain(chain_of(line), places)) then
  return { 'item_not_found', id }
end
local freed, gone = 0, {}
for _, place in ipairs(places) do
  if redis.call('LLEN', segment_key(place[1])) > place[2] then
    local element = redis.call('LINDEX', segment_key(place[1]), place[2])
    local pieces, size = parted(element)
    freed = freed + (size or #element)
    gone[pieces or ''] = true
    redis.call('LSET', segment_key(place[1]), place[2], '')
    redis.call('ZADD', BASE .. 'tombstones', position(place[1], place[2]), place[1] .. ':' .. place[2])
  end
end
free_pieces(function(name) return gone[name] end)
rename_edition(edition)
redis.call('HDEL', index_key, id)
local call = 'call:' .. string.sub(mark, 2)
if string.find(mark, '^[+~]') and redis.call('HGET', index_key, call) == id then
  redis.call('HDEL', index_key, call)
end
local _, milliseconds = now()
redis.call('HSET', conversation_key, 'updated_at', milliseconds)
return { 'ok', redis.call('HGETALL', conversation_key), freed }
