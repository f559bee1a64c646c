-- delete_item: remove one item for good, from every branch and every snapshot; the others keep ids and order.
-- KEYS  partition, conversation, branches, index
-- ARGV  owner, conversation id, item id
-- Returns {'ok', facts} (flat field/value list), or {'conversation_not_found'}, {'item_not_found', id}.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local bytes, _, mark, places = load_item(KEYS[4], ARGV[3])
if not bytes or not on_any_branch(KEYS[3], places) then
  return { 'item_not_found', ARGV[3] }
end
for _, place in ipairs(places) do
  if redis.call('EXISTS', segment_key(place[1])) == 1 then
    redis.call('LSET', segment_key(place[1]), place[2], '')
  end
end
redis.call('HDEL', KEYS[4], ARGV[3])
if string.find(mark, '^[+~]') then
  redis.call('HDEL', KEYS[4], 'call:' .. string.sub(mark, 2))
end
local _, milliseconds = now()
redis.call('HSET', KEYS[2], 'updated_at', milliseconds)
return { 'ok', redis.call('HGETALL', KEYS[2]) }
