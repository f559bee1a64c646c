-- list_items: one page of a branch, or of a response's input.
-- KEYS  partition, conversation, branches, index, response
-- ARGV  owner, 'branch' or 'response', conversation or response id, branch ('' = active), after ('' = none),
--       limit, 'asc' or 'desc'
-- Returns {'ok', more (0 or 1), item bytes…}, or {'conversation_not_found'}, {'branch_not_found', name},
-- {'response_not_found'}, {'cursor_not_found', id}. Writes nothing.

if not owned(ARGV[1]) then
  return { ARGV[2] == 'branch' and 'conversation_not_found' or 'response_not_found' }
end
local text
if ARGV[2] == 'branch' then
  if not conversation_lives(KEYS[2], ARGV[3]) then
    return { 'conversation_not_found' }
  end
  text = redis.call('HGET', KEYS[3], branch_name(KEYS[2], ARGV[4]) .. ':chain')
  if not text then
    return { 'branch_not_found', branch_name(KEYS[2], ARGV[4]) }
  end
else
  text = redis.call('HGET', KEYS[5], 'context')
  if not text then
    return { 'response_not_found' }
  end
end

-- Spans in reading order, each {segment, from, to}; a descending page reads them from the end.
local chain = close_chain(parse_chain(text))
local descending = ARGV[7] == 'desc'
local first, last, step = 1, #chain, 1
if descending then
  first, last, step = #chain, 1, -1
end

-- Where to start: {number of span, offset in its segment}, just past the cursor's first occurrence.
local start_span, start_offset
if ARGV[5] ~= '' then
  local bytes, _, _, places = load_item(KEYS[4], ARGV[5])
  for i = first, last, step do
    local best
    for _, place in ipairs(bytes and places or {}) do
      if chain_holds({ chain[i] }, place[1], place[2]) and (not best or (place[2] < best) ~= descending) then
        best = place[2]
      end
    end
    if best then
      start_span, start_offset = i, best + step
      break
    end
  end
  if not start_span then
    return { 'cursor_not_found', ARGV[5] }
  end
end

local wanted = tonumber(ARGV[6]) + 1
local found = {}
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
      end
    end
    offset = descending and low - 1 or high + 1
  end
end
local more = 0
if #found == wanted then
  more = 1
  found[wanted] = nil
end
return { 'ok', more, found }
