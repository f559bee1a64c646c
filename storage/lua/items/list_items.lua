-- list_items: one page of a branch, or of a response's input.
-- needs: branch
-- KEYS  partition, conversation, branches, index, response
-- ARGV  owner, 'branch' or 'response', conversation or response id, branch ('' = active), after ('' = none),
--       limit, 'asc' or 'desc', at ('' = now; an item or a response: the branch as it was there)
-- Returns {'ok', more (0 or 1), item bytes…}, or {'conversation_not_found'}, {'branch_not_found', name},
-- {'response_not_found'}, {'item_not_found', at}, {'cursor_not_found', id}. Writes nothing.

local conversation_key, branches_key, index_key, response_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local owner, kind, id, name, after = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local size, order, at = tonumber(ARGV[6]), ARGV[7], ARGV[8]

if not owned(owner) then
  return { kind == 'branch' and 'conversation_not_found' or 'response_not_found' }
end
-- Spans in reading order, each {segment, from, to}; a descending page reads them from the end.
local chain
if kind == 'branch' then
  if not conversation_lives(conversation_key, id) then
    return { 'conversation_not_found' }
  end
  local point = at ~= '' and 'at' or 'tip'
  local fork, refusal = resolve_fork(conversation_key, branches_key, index_key, name, point, at)
  if not fork then
    return refusal
  end
  chain = fork.base
else
  local text = redis.call('HGET', response_key, 'context')
  if not text then
    return { 'response_not_found' }
  end
  chain = parse_chain(text)
end
local descending = order == 'desc'
local first, last, step = 1, #chain, 1
if descending then
  first, last, step = #chain, 1, -1
end

-- One batch may hold an item twice; a cursor means its last occurrence, and no page ends on an earlier one, so paging
-- gets on.
local function last_occurrence(places)
  return find_on_chain(chain, places, descending)
end

-- Where to start: just past the cursor.
local start_span, start_offset
if after ~= '' then
  local bytes, _, _, places = load_item(index_key, after)
  if bytes then
    start_span, start_offset = last_occurrence(places)
  end
  if start_span then
    start_offset = start_offset + step
  else
    return { 'cursor_not_found', after }
  end
end

-- Up to `wanted` live items from the start on, and where each lies: {number of span, offset}.
local function read(wanted)
  local found, where = {}, {}
  for i = start_span or first, last, step do
    local segment, from, to = chain[i][1], chain[i][2], chain[i][3]
    local offset = descending and to - 1 or from
    if i == start_span then
      offset = start_offset
    end
    while #found < wanted and offset >= from and offset < to do
      local low, high
      if descending then
        low, high = math.max(from, offset - wanted + 1), offset
      else
        low, high = offset, math.min(to - 1, offset + wanted - 1)
      end
      local items = redis.call('LRANGE', segment_key(segment), low, high)
      for j = 1, #items do
        local item = items[descending and #items - j + 1 or j]
        if item ~= '' and #found < wanted then
          found[#found + 1] = item
          where[#where + 1] = { i, descending and high - j + 1 or low + j - 1 }
        end
      end
      offset = descending and low - 1 or high + 1
    end
  end
  return found, where
end

-- Every stored item begins with its id: the one thing of an item that is read here.
local function may_end_on(item, place)
  local places = places_of(index_key, item_id(item) or '')
  local span, offset
  if places then
    span, offset = last_occurrence(places)
  end
  return not span or (span == place[1] and offset == place[2])
end

local found, where = read(size + 1)
while #found > size and not may_end_on(found[size], where[size]) do
  size = size + 1
  if #found == size then
    found, where = read(size + 20)
  end
end
local more = #found > size and 1 or 0
for i = #found, size + 1, -1 do
  found[i] = nil
end
return { 'ok', more, found }
