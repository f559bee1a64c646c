-- Put before the scripts that append. `append_entries` is the only place that writes items.
--
-- An entry is four arguments: mode, id, bytes, mark.
--   mode m: an id minted for this call. c: an id that the client brought: if it is known here the stored item is
--   used and the bytes are ignored, and so for its second time in one call. r: a reference, known here or an error.
--   mark: `+call_id` for a tool call that waits for its output, `~call_id` for one that may get an output,
--   `-call_id` for an output, or empty.

local FIELDS = 4

-- Looks up the c and r entries among ARGV[first..]. Returns the entries, or nil and the id of an unknown reference.
local function read_entries(first, count, index_key)
  local entries = {}
  for i = 0, count - 1 do
    local at = first + i * FIELDS
    local entry = { mode = ARGV[at], id = ARGV[at + 1], bytes = ARGV[at + 2], mark = ARGV[at + 3] }
    if entry.mode ~= 'm' then
      local bytes, place, mark, places = find_item(KEYS[2], KEYS[3], index_key, entry.id)
      if bytes then
        entry.bytes, entry.place, entry.mark, entry.places = bytes, place, mark, places
      elseif entry.mode == 'r' then
        return nil, entry.id
      end
    end
    entries[#entries + 1] = entry
  end
  return entries
end

local function push_chunked(command, key, values)
  for i = 1, #values, CHUNK do
    redis.call(command, key, unpack(values, i, math.min(i + CHUNK - 1, #values)))
  end
end

local function new_segment()
  return redis.call('HINCRBY', KEYS[1], 'next_segment', 1) - 1
end

local function mark_pending(pending, mark)
  local sign, call_id = string.sub(mark, 1, 1), string.sub(mark, 2)
  if sign == '+' then
    pending[call_id] = true
  elseif sign == '-' then
    pending[call_id] = nil
  end
end

-- Appends entries to `chain` (closed), new items into `segment`; changes chain and pending in place, notes
-- each entry's place (`at`). pending: set of call ids that wait for an output.
local function append_entries(entries, chain, segment, index_key, pending)
  local offset = redis.call('LLEN', segment_key(segment))
  local values, fields, fresh = {}, {}, {}
  for _, entry in ipairs(entries) do
    local twin = fresh[entry.id]
    if twin then
      entry.bytes, entry.mark = twin.bytes, twin.mark
    end
    local place = entry.place or twin and twin.at
    entry.at = place or { segment, offset }
    add_span(chain, entry.at[1], entry.at[2], entry.at[2] + 1)
    if not place then
      local value = segment .. ':' .. offset
      local older = entry.mode == 'c' and redis.call('HGET', index_key, entry.id)
      if older then
        value = string.match(older, '^(%S+)') .. ',' .. value
      end
      if entry.mark ~= '' then
        value = value .. ' ' .. entry.mark
      end
      values[#values + 1] = entry.bytes
      fields[#fields + 1] = entry.id
      fields[#fields + 1] = value
      if string.find(entry.mark, '^[+~]') then
        fields[#fields + 1] = 'call:' .. string.sub(entry.mark, 2)
        fields[#fields + 1] = entry.id
      end
      if entry.mode == 'c' then
        fresh[entry.id] = entry
      end
      offset = offset + 1
    end
    mark_pending(pending, entry.mark)
  end
  push_chunked('RPUSH', segment_key(segment), values)
  push_chunked('HSET', index_key, fields)
end

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

-- Appends entries to a branch, whose chain always ends in one open span on a segment of its own. A segment that a
-- branch comes to point into may not expire any more.
local function append_to_branch(entries, branches_key, branch, index_key)
  local fields = redis.call('HMGET', branches_key, branch .. ':chain', branch .. ':pending')
  local chain = parse_chain(fields[1])
  local segment = chain[#chain][1]
  close_chain(chain)
  local pending = parse_pending(fields[2])
  append_entries(entries, chain, segment, index_key, pending)
  for _, entry in ipairs(entries) do
    if entry.place then
      redis.call('PERSIST', segment_key(entry.place[1]))
    end
  end
  local length = redis.call('LLEN', segment_key(segment))
  local last = chain[#chain]
  if last and last[1] == segment and last[3] == length then
    last[3] = nil
  else
    chain[#chain + 1] = { segment, length }
  end
  redis.call('HSET', branches_key, branch .. ':chain', format_chain(chain), branch .. ':pending',
    format_pending(pending))
end
