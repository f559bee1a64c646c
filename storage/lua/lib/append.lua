-- append: new items on a branch or a chain. `append_entries` is the only place that writes items.
-- needs: branch
--
-- An entry is four arguments: mode, id, bytes, mark.
--   mode m: an id minted for this call. c: an id that the client brought: if it is known here the stored item is
--   used and the bytes are ignored, and so for its second time in one call. r: a reference, known here or an error.
--   mark (storage/calls.py): `+call_id` for a tool call that waits for its output, `~call_id` for one that may get an
--   output, `-call_id` for an output, or empty.

-- The entry whose arguments begin at a position, with what is stored of it if it is a c or an r; nil and its id for an
-- unknown reference.
local function read_entry(at, conversation_key, index_key)
  local mode, id, bytes, mark = unpack(ARGV, at, at + FIELDS - 1)
  local entry = { mode = mode, id = id, bytes = bytes, mark = mark }
  if mode ~= 'm' then
    local stored, place, stored_mark, places = find_item(conversation_key, index_key, id)
    if stored then
      entry.bytes, entry.place, entry.mark, entry.places = stored, place, stored_mark, places
    elseif mode == 'r' then
      return nil, id
    end
  end
  return entry
end

-- The entries of a list among the arguments whose length stands at a position; nil and the id of an unknown reference.
local function read_entries(at, conversation_key, index_key)
  local entries = {}
  local first, last = list_at(at, FIELDS)
  for i = first, last, FIELDS do
    local entry, unknown = read_entry(i, conversation_key, index_key)
    if not entry then
      return nil, unknown
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

-- Notes an append in the journal: who made it (a response's id, or ''), with which model, and the calls that wait now.
-- Only conversations need one: to fork at any point, to find an answer's model, to find all responses.
local function note_append(segment, id, model, pending)
  if not is_kept() then
    return
  end
  local length = redis.call('LLEN', segment_key(segment))
  if id == '' then
    id = '@' .. segment .. ':' .. length
  end
  redis.call('ZADD', BASE .. 'journal', position(segment, length),
    id .. FIELD_BREAK .. model .. FIELD_BREAK .. format_pending(pending))
end

-- Appends entries to a branch, whose chain always ends in one open span on its own segment. A segment that a branch
-- comes to point into may not expire any more. id, model: for the journal.
local function append_to_branch(entries, line, index_key, id, model)
  local key = branch_key(line)
  local fields = redis.call('HMGET', key, 'chain', 'pending')
  local chain = close_chain(parse_chain(fields[1]))
  local pending = parse_pending(fields[2])
  append_entries(entries, chain, line, index_key, pending)
  for _, entry in ipairs(entries) do
    if entry.at[1] ~= line then
      hold(line, entry.at[1], entry.at[2] + 1)
      redis.call('HSET', key, 'mixed', 1)
    end
  end
  local length = redis.call('LLEN', segment_key(line))
  local last = chain[#chain]
  if last and last[1] == line and last[3] == length then
    last[3] = nil
  else
    chain[#chain + 1] = { line, length }
  end
  local _, milliseconds = now()
  redis.call('HSET', key, 'chain', format_chain(chain), 'pending', format_pending(pending), 'updated_at', milliseconds)
  note_append(line, id, model, pending)
end
