-- journal: what every append of a conversation has told: the calls that wait behind it, and its model.
-- needs: common
--
-- The journal is a sorted set with one entry an append: at position(segment, its length after the append), `id US model
-- US calls that wait for an output there`. So a fork at any point finds its pending calls by reading one entry and the
-- few items after it, however long the history is. An append that brought nothing new is noted at position(segment, 0),
-- where nobody looks for calls: what waits behind it is not what waits at the segment's end.

local function parse_pending(text)
  local pending = {}
  for call_id in string.gmatch(text or '', CALL_ID) do
    pending[call_id] = true
  end
  return pending
end

local function format_pending(pending)
  local list = {}
  for call_id in pairs(pending) do
    list[#list + 1] = call_id
  end
  table.sort(list)
  return table.concat(list, CALL_BREAK)
end

local function mark_pending(pending, mark)
  local sign, call_id = string.sub(mark, 1, 1), string.sub(mark, 2)
  if sign == '+' then
    pending[call_id] = true
  elseif sign == '-' then
    pending[call_id] = nil
  end
end

local function item_id(bytes)
  return string.match(bytes, '^{"id":"([^"]+)"')
end

-- The part of a closed chain before an offset of its span number i.
local function cut(chain, i, offset)
  local head = {}
  for j = 1, i - 1 do
    head[j] = chain[j]
  end
  if offset > chain[i][2] then
    head[i] = { chain[i][1], chain[i][2], offset }
  end
  return head
end

local function replay_marks(pending, span, index_key)
  for low = span[2], span[3] - 1, CHUNK do
    for _, bytes in ipairs(redis.call('LRANGE', segment_key(span[1]), low, math.min(low + CHUNK, span[3]) - 1)) do
      local _, mark = places_of(index_key, item_id(bytes) or '')
      mark_pending(pending, mark or '')
    end
  end
end

-- The last place in a segment, behind `from` and up to `to`, of which the journal tells what waits there: its offset and
-- the calls. Earlier versions noted there too what brought nothing new: where entries of a place differ, none is believed.
local function last_told(segment, from, to)
  local journal, high, low = BASE .. 'journal', position(segment, to), '(' .. position(segment, from)
  while true do
    local score = redis.call('ZREVRANGEBYSCORE', journal, high, low, 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if not score then
      return nil
    end
    local told, differ
    for _, entry in ipairs(redis.call('ZRANGEBYSCORE', journal, score, score)) do
      local calls = string.match(entry, '[^' .. FIELD_BREAK .. ']*$')
      told, differ = calls, differ or told and told ~= calls
    end
    if not differ then
      return tonumber(score) - segment * SEGMENT_SPACE, told
    end
    high = '(' .. score
  end
end

-- The calls that wait for an output at the end of a closed chain: from the journal, and the marks of what follows. The
-- journal speaks of the chains that were appended to; a branch is `mixed` if its own is not the beginning of one of
-- those, because it took in another's items, leaves out a call or starts with what is not the beginning of a branch's: then
-- the marks of all its items are read.
local function pending_at(chain, index_key, mixed)
  local pending, last = {}, chain[#chain]
  if mixed then
    for _, span in ipairs(chain) do
      replay_marks(pending, span, index_key)
    end
    return pending
  elseif not last then
    return pending
  end
  local segment, from, to = last[1], last[2], last[3]
  local told_at, calls = last_told(segment, from, to)
  if told_at then
    from, pending = told_at, parse_pending(calls)
  else
    pending = pending_at(cut(chain, #chain, from), index_key)
  end
  replay_marks(pending, { segment, from, to }, index_key)
  return pending
end

-- The first model that a stretch of the journal tells, as `command` goes through it; of so many entries at most.
local function first_model(command, one, other, most)
  for _, entry in ipairs(redis.call(command, BASE .. 'journal', one, other, 'LIMIT', 0, most)) do
    local model = string.match(entry, FIELD_BREAK .. '(.*)' .. FIELD_BREAK)
    if model ~= '' then
      return model
    end
  end
end

-- The model of the turn that answered an item, or made it: the first after it on its chain, else the last before it.
local function model_at(chain, i, offset)
  local most = 10
  for j = i, #chain do
    local after = j == i and offset or chain[j][2]
    local model = first_model('ZRANGEBYSCORE', '(' .. position(chain[j][1], after), position(chain[j][1], chain[j][3]), most)
    if model then
      return model
    end
  end
  for j = i, 1, -1 do
    local before = j == i and offset or chain[j][3]
    local model = first_model('ZREVRANGEBYSCORE', position(chain[j][1], before), position(chain[j][1], 0), most)
    if model then
      return model
    end
  end
  return ''
end
