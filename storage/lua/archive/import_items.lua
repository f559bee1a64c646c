-- import_items: write items that follow each other in a segment.
-- needs: import
-- KEYS  partition, index
-- ARGV  owner, fingerprint, life s, segment, offset of the first, then for each: id, bytes ('' = deleted), mark
-- Returns {'ok'} or {'conflict'}, also when what comes before them is not there; {'unstaged'} when pieces are not there
-- that were brought for one of them: then nothing was written.

local index_key = KEYS[2]
local owner, fingerprint, life = ARGV[1], ARGV[2], tonumber(ARGV[3])
local segment, offset = ARGV[4], tonumber(ARGV[5])
local first_item, item_width = 6, 3

local key = segment_key(segment)
local length = redis.call('LLEN', key)
if not is_importing(owner, fingerprint) or length < offset then
  return { 'conflict' }
end
-- Pieces of those that are not there yet.
local brought = {}
for i = first_item, #ARGV, item_width do
  local at = offset + (i - first_item) / item_width
  local name = at >= length and parted(ARGV[i + 1])
  if name then
    if redis.call('LLEN', pieces_key(name)) ~= tonumber(string.match(name, '%d+$')) then
      return { 'unstaged' }
    end
    brought[#brought + 1] = name .. ':' .. segment .. ':' .. string.format('%d', at)
    extend(pieces_key(name), life)
  end
end
if #brought > 0 then
  local noted = redis.call('HGET', PARTITION, 'pieces')
  redis.call('HSET', PARTITION, 'pieces', (noted and noted .. ',' or '') .. table.concat(brought, ','))
end
local values, tombstones = {}, {}
for i = first_item, #ARGV, item_width do
  local id, bytes, mark = unpack(ARGV, i, i + item_width - 1)
  local place = segment .. ':' .. offset
  if offset >= length then
    values[#values + 1] = bytes
  end
  if bytes == '' then
    tombstones[#tombstones + 1] = position(segment, offset)
    tombstones[#tombstones + 1] = place
  else
    -- Places that are known already stay, behind this one: another of this file, or one from before the deletion.
    local value = place
    for other in string.gmatch(string.match(redis.call('HGET', index_key, id) or '', '^%S*'), '[^,]+') do
      if other ~= place then
        value = value .. ',' .. other
      end
    end
    redis.call('HSET', index_key, id, mark == '' and value or value .. ' ' .. mark)
    if string.find(mark, '^[+~]') then
      redis.call('HSET', index_key, 'call:' .. string.sub(mark, 2), id)
    end
  end
  offset = offset + 1
end
for i = 1, #values, CHUNK do
  redis.call('RPUSH', key, unpack(values, i, math.min(i + CHUNK - 1, #values)))
end
for i = 1, #tombstones, CHUNK do
  redis.call('ZADD', BASE .. 'tombstones', unpack(tombstones, i, math.min(i + CHUNK - 1, #tombstones)))
end
for _, each in ipairs({ key, index_key, BASE .. 'tombstones' }) do
  extend(each, life)
end
return { 'ok' }
