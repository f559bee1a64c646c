-- sweep_index: one step of freeing index entries of items that are gone.
-- needs: branch
-- KEYS  partition, index
-- ARGV  HSCAN cursor, about how many entries, 'items' or 'calls'
-- Returns {'ok', cursor to go on with ('0' when done), entries dropped}.
-- A sweep goes over the items first: places that don't hold the item leave its entry, entries without places go, and a
-- call that lost its item is given to another item of that call. Then the calls: those of no item go.

local index_key = KEYS[2]
local cursor, count, kind = ARGV[1], ARGV[2], ARGV[3]

if not is_kept() then
  return { 'ok', '0', 0 }
end
local dropped = 0

-- The places of an index entry that hold the item, as they are written there; how many there are in all; the mark.
local function live_places(id, value)
  local list, mark = string.match(value, '^(%S+) ?(.*)$')
  local live, total = {}, 0
  for segment, offset in string.gmatch(list, '(%d+):(%d+)') do
    total = total + 1
    local bytes = redis.call('LINDEX', segment_key(segment), offset)
    if bytes and item_id(bytes) == id then
      live[#live + 1] = segment .. ':' .. offset
    end
  end
  return live, total, mark
end

local function is_live(id)
  local value = redis.call('HGET', index_key, id)
  return value and #live_places(id, value) > 0
end

local function sweep_item(id, value)
  local live, total, mark = live_places(id, value)
  if #live == 0 then
    dropped = dropped + redis.call('HDEL', index_key, id)
    return
  end
  if #live < total then
    redis.call('HSET', index_key, id, table.concat(live, ',') .. (mark == '' and '' or ' ' .. mark))
  end
  local call_id = string.match(mark, '^[+~](.*)$')
  local item_of_call = call_id and redis.call('HGET', index_key, 'call:' .. call_id)
  if call_id and item_of_call ~= id and not (item_of_call and is_live(item_of_call)) then
    redis.call('HSET', index_key, 'call:' .. call_id, id)
  end
end

local reply = redis.call('HSCAN', index_key, cursor, 'COUNT', count)
for i = 1, #reply[2], 2 do
  local call_id = string.match(reply[2][i], '^call:(.*)$')
  if kind == 'items' and not call_id then
    sweep_item(reply[2][i], reply[2][i + 1])
  elseif kind == 'calls' and call_id and redis.call('HEXISTS', index_key, reply[2][i + 1]) == 0 then
    dropped = dropped + redis.call('HDEL', index_key, reply[2][i])
  end
end
return { 'ok', reply[1], dropped }
