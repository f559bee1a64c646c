-- sweep_segment: one step of freeing what nobody reaches in a segment that no branch writes.
-- needs: branch
-- prolongs: rest
-- KEYS  partition, index
-- ARGV  segment, offset to go on from, how many items to look at, how many branches to ask, new edition
-- Returns {'ok', offset to go on from or -1 when done, items freed, segments freed}.
-- First the end that nobody reaches, from its tip downwards, `how many` a call; then the items before it, upwards, in
-- which only gaps can be free. An offset is reached by responses and running forks up to what `reach:SEGMENT` notes,
-- and by the branches that the segment's holders name. Every step leaves index, journal and tombstones right, so any
-- other script may run between two.

local index_key = KEYS[2]
local segment, from, window, patience = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local edition = ARGV[5]

local key = segment_key(segment)
local length = redis.call('LLEN', key)
local needed_until, reach = string.match(redis.call('HGET', PARTITION, 'reach:' .. segment) or '', '^(%d+):(%d+)$')
-- A segment that expires without a note of its readers has some that nobody noted: it was not kept when they began. One
-- that branches read expires with its conversation only.
local unknown = not needed_until and redis.call('TTL', key) >= 0 and redis.call('EXISTS', holders_key(segment)) == 0
if not is_kept() or length == 0 or unknown or redis.call('EXISTS', branch_key(segment)) == 1 then
  return { 'ok', -1, 0, 0 }
end
local _, milliseconds = now()
reach = needed_until and tonumber(needed_until) > milliseconds and math.min(tonumber(reach), length) or 0

local freed = 0

-- Takes an item that goes out of the index, or one place out of several. `call:ID` stays: sweep_index sees whether
-- another item of that call is left.
local function forget_item(bytes, offset)
  freed = freed + 1
  local id = item_id(bytes) or ''
  local places, mark = places_of(index_key, id)
  local left = {}
  for _, place in ipairs(places or {}) do
    if place[1] ~= segment or place[2] ~= offset then
      left[#left + 1] = place[1] .. ':' .. place[2]
    end
  end
  if #left == 0 then
    redis.call('HDEL', index_key, id)
  elseif #left < #places then
    redis.call('HSET', index_key, id, table.concat(left, ',') .. (mark == '' and '' or ' ' .. mark))
  end
end

local top = redis.call('ZREVRANGE', holders_key(segment), 0, 0, 'WITHSCORES')
local needed = math.max(reach, tonumber(top[2] or 0))
if length > needed then
  local low = math.max(needed, length - window)
  rename_edition(edition)
  for i, bytes in ipairs(redis.call('LRANGE', key, low, -1)) do
    if bytes ~= '' then
      forget_item(bytes, low + i - 1)
    end
  end
  local past = '(' .. position(segment + 1, 0)
  redis.call('ZREMRANGEBYSCORE', BASE .. 'tombstones', position(segment, low), past)
  redis.call('ZREMRANGEBYSCORE', BASE .. 'journal', (low > 0 and '(' or '') .. position(segment, low), past)
  if low == 0 then
    redis.call('UNLINK', key)
    redis.call('HDEL', PARTITION, 'reach:' .. segment)
    return { 'ok', -1, freed, 1 }
  end
  redis.call('LTRIM', key, 0, low - 1)
  return { 'ok', from, freed, 0 }
end

local past = math.min(from + window, length)
local free, free_count = {}, 0
for i, bytes in ipairs(redis.call('LRANGE', key, from, past - 1)) do
  local offset = from + i - 1
  if bytes ~= '' and offset >= reach then
    free[offset], free_count = bytes, free_count + 1
  end
end

local function keep(chain)
  for _, span in ipairs(chain) do
    if span[1] == segment then
      for offset = math.max(span[2], from), math.min(span[3], past) - 1 do
        if free[offset] then
          free[offset], free_count = nil, free_count - 1
        end
      end
    end
  end
end

-- Those that read furthest first: a single branch most often has all of the window.
local asked = 0
while free_count > 0 do
  local lines = redis.call('ZREVRANGEBYSCORE', holders_key(segment), '+inf', '(' .. position(0, from),
    'LIMIT', asked, 20)
  for _, line in ipairs(lines) do
    if free_count > 0 then
      keep(parse_chain(redis.call('HGET', branch_key(line), 'chain') or segment .. ':0:' .. length))
    end
  end
  asked = asked + #lines
  if #lines < 20 then
    break
  elseif asked >= patience then
    free, free_count = {}, 0
  end
end

if free_count > 0 then
  rename_edition(edition)
end
for offset, bytes in pairs(free) do
  forget_item(bytes, offset)
  redis.call('LSET', key, offset, '')
  redis.call('ZADD', BASE .. 'tombstones', position(segment, offset), segment .. ':' .. offset)
end
return { 'ok', past < length and past or -1, freed, 0 }
