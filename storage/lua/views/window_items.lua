-- window_items: a part of a branch, deleted items too, and the appends that made it.
-- needs: view
-- KEYS  partition, conversation, branches, index
-- ARGV  1 owner  2 conversation id  3 branch ('' = active, or with an item around which has it)  4 item around which
--       ('' = none)  5 at ('' = now; an item or a response: the branch as it was there)  6 cursor before which  7 cursor
--       after which ('' = none)  8 places wanted  9 bytes of an item of which only the beginning is shown  10 bytes of
--       bodies of responses
-- A cursor is `segment.offset.number`: a place, and its number on the branch, from 0, deleted ones counted.
-- Returns {'ok', branch, line (-1: none), active branch, id of the running response or '', number of the first place,
--   length of the branch in places, living items before, living items after,
--   {segment, offset of the first, {bytes, size}…}…, a list with {} for a deleted item;
--   {segment, end, id, model, status, created_at, body}… of the appends, '' where there is nothing}
-- or {'conversation_not_found'}, {'branch_not_found', name}, {'item_not_found', id}, {'cursor_not_found', cursor},
-- {'response_unfinished', id}. Writes nothing.

local conversation_key, branches_key, index_key = KEYS[2], KEYS[3], KEYS[4]
local owner, conversation_id, name, around, at = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local before, after, wanted = ARGV[6], ARGV[7], tonumber(ARGV[8])
local most_shown, most_bodies = tonumber(ARGV[9]), tonumber(ARGV[10])

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local places
if around ~= '' then
  local bytes, _
  bytes, _, _, places = load_item(index_key, around)
  if not bytes then
    return { 'item_not_found', around }
  end
end
local line, chain
if at ~= '' then
  local fork, refusal = resolve_fork(conversation_key, branches_key, index_key, name, 'at', at)
  if not fork then
    return refusal
  end
  line, chain = fork.line, still_there(fork.base)
elseif places and name == '' then
  line, chain = branch_with(conversation_key, branches_key, places)
  if not line then
    return { 'item_not_found', around }
  end
else
  local branch, refusal = find_branch(owner, conversation_key, conversation_id, branches_key, name)
  if not branch then
    return refusal
  end
  line, chain = branch.line, chain_of(branch.line)
end

local function is_at(number, segment, offset)
  local span = part_of(chain, number, number + 1)[1]
  return span and span[1] == segment and span[2] == offset
end

-- Number of a place on the chain, nil where it is not there. A place that is there twice is known by its number.
local function number_of(segment, offset, number)
  if number and is_at(number, segment, offset) then
    return number
  end
  local passed = 0
  for _, span in ipairs(chain) do
    if span[1] == segment and span[2] <= offset and offset < span[3] then
      return passed + offset - span[2]
    end
    passed = passed + span[3] - span[2]
  end
end

local function number_of_cursor(cursor)
  local segment, offset, number = string.match(cursor, '^(%d+)%.(%d+)%.(%d+)$')
  return segment and number_of(tonumber(segment), tonumber(offset), tonumber(number))
end

local length = length_of(chain)
local first = math.max(length - wanted, 0)
local past = length
if around ~= '' then
  local i, offset = find_on_chain(chain, places)
  if not i then
    return { 'item_not_found', around }
  end
  local number = number_of(chain[i][1], offset)
  first = math.max(math.min(number - math.floor(wanted / 2), length - wanted), 0)
elseif before ~= '' then
  past = number_of_cursor(before)
  if not past then
    return { 'cursor_not_found', before }
  end
  first = math.max(past - wanted, 0)
elseif after ~= '' then
  local number = number_of_cursor(after)
  if not number then
    return { 'cursor_not_found', after }
  end
  first = number + 1
end
past = math.min(past, first + wanted)

local items, appends, known = {}, {}, {}
local function add_append(entry, score, segment)
  local id, model = string.match(entry, APPEND)
  if not known[score] then
    known[score] = true
    appends[#appends + 1] = { segment, tonumber(score) - segment * SEGMENT_SPACE, id, model }
  end
end
for _, span in ipairs(part_of(chain, first, past)) do
  local segment, from, to = span[1], span[2], span[3]
  local list = { segment, from }
  for _, element in ipairs(redis.call('LRANGE', segment_key(segment), from, to - 1)) do
    list[#list + 1] = element == '' and {} or shown(element, most_shown)
  end
  items[#items + 1] = list
  local entries = redis.call('ZRANGEBYSCORE', BASE .. 'journal', '(' .. position(segment, from), position(segment, to),
    'WITHSCORES')
  for i = 1, #entries, 2 do
    add_append(entries[i], entries[i + 1], segment)
  end
  if not entries[1] or tonumber(entries[#entries]) < segment * SEGMENT_SPACE + to then
    local next_one = redis.call('ZRANGEBYSCORE', BASE .. 'journal', '(' .. position(segment, to),
      '(' .. position(segment + 1, 0), 'WITHSCORES', 'LIMIT', 0, 1)
    if next_one[1] then
      add_append(next_one[1], next_one[2], segment)
    end
  end
end
-- the newest first: of those a body is missed most
for i = #appends, 1, -1 do
  local one = appends[i]
  local facts = redis.call('HMGET', BASE .. 'response:' .. one[3], 'status', 'created_at', 'body')
  local body = facts[3] or ''
  most_bodies = most_bodies - #body
  one[5], one[6], one[7] = facts[1] or '', facts[2] or '', most_bodies >= 0 and body or ''
end
return { 'ok', line and redis.call('HGET', branch_key(line), 'name') or '', line or -1,
  redis.call('HGET', conversation_key, 'active_branch'), line and running_with(line) or '', first, length,
  count_items(part_of(chain, 0, first)), count_items(part_of(chain, past, length)), items, appends }
