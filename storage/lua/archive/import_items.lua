-- import_items: write items that follow each other in a segment.
-- KEYS  partition, index
-- ARGV  owner, fingerprint, life s, segment, offset of the first, then for each: id, bytes ('' = deleted), mark
-- Returns {'ok'} or {'conflict'}, also when what comes before them is not there.

local segment, offset, life = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[3])
local key = segment_key(segment)
local length = redis.call('LLEN', key)
if not is_importing(ARGV[1], ARGV[2]) or length < offset then
  return { 'conflict' }
end
local values, tombstones = {}, {}
for i = 6, #ARGV, 3 do
  local id, bytes, mark = ARGV[i], ARGV[i + 1], ARGV[i + 2]
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
    for other in string.gmatch(string.match(redis.call('HGET', KEYS[2], id) or '', '^%S*'), '[^,]+') do
      if other ~= place then
        value = value .. ',' .. other
      end
    end
    redis.call('HSET', KEYS[2], id, mark == '' and value or value .. ' ' .. mark)
    if string.find(mark, '^[+~]') then
      redis.call('HSET', KEYS[2], 'call:' .. string.sub(mark, 2), id)
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
for _, each in ipairs({ key, KEYS[2], BASE .. 'tombstones' }) do
  extend(each, life)
end
return { 'ok' }
