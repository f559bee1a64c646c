-- view: what people look at: beginnings of items, which branch an item is on, what made it, and what runs.
-- needs: branch

local EXCERPT = 2048
-- Id and model of an entry of the journal.
local APPEND = '^([^' .. FIELD_BREAK .. ']*)' .. FIELD_BREAK .. '([^' .. FIELD_BREAK .. ']*)'

-- The beginning of an item, which for most is all of it, and its size.
local function beginning(element)
  local item, _, size = string.match(element, FIRST_FIELD), parted(element)
  return item, size and tonumber(size) or #item
end

-- The beginning of an item without its note: {bytes, size}; {} for nothing.
local function excerpt(element)
  if not element or element == '' then
    return {}
  end
  local item, size = beginning(element)
  return { string.sub(item, 1, EXCERPT), size }
end

-- An item as it is shown: {bytes, size}; only the beginning of one that has more bytes than that.
local function shown(element, most)
  local item, size = beginning(element)
  return { size > most and string.sub(item, 1, EXCERPT) or item, size }
end

-- Id of the response that holds a lock, or '': its token begins with it.
local function running_with(lock)
  return string.match(redis.call('GET', BASE .. 'lock:' .. lock) or '', '^([^/]+)/') or ''
end

-- How many places a closed chain has.
local function length_of(chain)
  local length = 0
  for _, span in ipairs(chain) do
    length = length + span[3] - span[2]
  end
  return length
end

-- The part of a closed chain from place number `from` to `to` (exclusive), counted from 0.
local function part_of(chain, from, to)
  local part, at = {}, 0
  for _, span in ipairs(chain) do
    local size = span[3] - span[2]
    local first, past = math.max(from - at, 0), math.min(to - at, size)
    if first < past then
      part[#part + 1] = { span[1], span[2] + first, span[2] + past }
    end
    at = at + size
  end
  return part
end

-- Id and model of the append that brought what lies at a place; '' where that is not known.
local function append_at(segment, offset)
  local entry = redis.call('ZRANGEBYSCORE', BASE .. 'journal', '(' .. position(segment, offset),
    '(' .. position(segment + 1, 0), 'LIMIT', 0, 1)[1]
  local id, model = string.match(entry or '', APPEND)
  return id and string.sub(id, 1, 1) ~= '@' and id or '', model or ''
end
