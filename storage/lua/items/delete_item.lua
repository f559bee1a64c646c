-- delete_item: remove one item for good, from every branch and every snapshot; the others keep ids and order.
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, conversation id, item id, branch that it must be on ('' = any)
-- Returns {'ok', facts} (flat field/value list), or {'conversation_not_found'}, {'branch_not_found', name},
-- {'item_not_found', id}.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local line, branch
if ARGV[4] ~= '' then
  line, branch = line_named(KEYS[2], KEYS[3], ARGV[4])
  if not line then
    return { 'branch_not_found', branch }
  end
end
local bytes, _, mark, places = load_item(KEYS[4], ARGV[3])
if not bytes or not on_any_branch(places) or (line and not any_in_chain(chain_of(line), places)) then
  return { 'item_not_found', ARGV[3] }
end
for _, place in ipairs(places) do
  if redis.call('LLEN', segment_key(place[1])) > place[2] then
    redis.call('LSET', segment_key(place[1]), place[2], '')
    redis.call('ZADD', BASE .. 'tombstones', position(place[1], place[2]), place[1] .. ':' .. place[2])
  end
end
redis.call('HDEL', KEYS[4], ARGV[3])
local call = 'call:' .. string.sub(mark, 2)
if string.find(mark, '^[+~]') and redis.call('HGET', KEYS[4], call) == ARGV[3] then
  redis.call('HDEL', KEYS[4], call)
end
local _, milliseconds = now()
redis.call('HSET', KEYS[2], 'updated_at', milliseconds)
return { 'ok', redis.call('HGETALL', KEYS[2]) }
