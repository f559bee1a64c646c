-- weigh_key: the bytes that a key of a partition counts with for its owner.
-- needs: common, response
-- KEYS  partition, a segment, a response, or a conversation
-- ARGV  'segment', 'response' or 'conversation', offset of the first item that is weighed, how many items
-- Returns {'ok', bytes, items that were weighed}, none for a response that is not over; of a conversation {'ok', 1 if it was deleted, else 0, 0}.

local key = KEYS[2]
local kind, from, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

if kind == 'conversation' then
  return { 'ok', redis.call('HEXISTS', key, 'deleted_at'), 0 }
end
if kind == 'response' then
  local facts = redis.call('HMGET', key, 'status', 'body')
  return { 'ok', is_unfinished(facts[1]) and 0 or #(facts[2] or ''), 0 }
end
local bytes = 0
local items = redis.call('LRANGE', key, from, from + most - 1)
for _, item in ipairs(items) do
  local _, size = parted(item)
  bytes = bytes + (size or #item)
end
return { 'ok', bytes, #items }
