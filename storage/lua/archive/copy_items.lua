-- copy_items: some of a list of items or pieces, of a partition that has been copied at an earlier moment.
-- needs: layout
-- KEYS  partition, list
-- ARGV  edition that the partition had then, from, to (exclusive), bytes after which no more is read
-- Returns {'ok', elements}, at least one; {'ok', 0} when something was taken from the partition since, or from the list.

local list_key = KEYS[2]
local edition, from, to, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

if (redis.call('HGET', PARTITION, 'edition') or '') ~= edition then
  return { 'ok', 0 }
end
local elements = {}
while from < to and room > 0 do
  local some = redis.call('LRANGE', list_key, from, math.min(from + STEP, to) - 1)
  if #some < math.min(STEP, to - from) then
    return { 'ok', 0 }
  end
  for _, bytes in ipairs(some) do
    elements[#elements + 1] = bytes
    room = room - #bytes
  end
  from = from + #some
end
return { 'ok', elements }
