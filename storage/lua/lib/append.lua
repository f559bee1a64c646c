-- append: new items on a branch or a chain. `append_entries` is the only place that writes items.
-- needs: branch
--
-- An entry is four arguments: mode, id, bytes, mark.
--   mode m: an id minted for this call. c: an id that the client brought: if it is known here the stored item is
--   used and the bytes are ignored, and so for its second time in one call. r: a reference, known here or an error.
--   M, C: the same as m and c of a call whose bytes are staged (stage_items): the entry has none, and the next element
--   of the staged list is its. Such a list becomes a segment, by its name: no bytes are moved.
--   The bytes may be the beginning of an item that was brought in pieces, with their name (`parted` of common.lua), in an
--   entry c or C, that of a minted id too.
--   mark (storage/calls.py): `+call_id` for a tool call that waits for its output, `~call_id` for one that may get an
--   output, `-call_id` for an output, or empty.

-- Arguments to a command that stores many. A hash that gets more than a few hundred fields at once is made for many: else
-- it is searched from its beginning for each of the first 512.
local MANY = 4000
-- How many elements of the staged list the entries that were read so far have.
local staged_count = 0
-- Names of the pieces that are needed for them.
local needed_pieces = {}

-- The entry whose arguments begin at a position, with what is stored of it if it is a c or an r; nil and its id for an
-- unknown reference. size: of how many items; staged: offset in the staged list, nil if it is none; argument: where its
-- arguments begin.
local function read_entry(at, conversation_key, index_key)
  local mode, id, bytes, mark = unpack(ARGV, at, at + FIELDS - 1)
  local entry = { mode = string.lower(mode), id = id, bytes = bytes, mark = mark, size = 1, argument = at }
  if mode == 'M' or mode == 'C' then
    entry.staged, staged_count = staged_count, staged_count + 1
    entry.first, entry.is_marked = mode == 'M' and at or nil, mark ~= ''
  end
  if entry.mode ~= 'm' then
    local stored, place, stored_mark, places = find_item(conversation_key, index_key, id)
    if stored then
      entry.bytes, entry.place, entry.mark, entry.places = stored, place, stored_mark, places
    elseif mode == 'r' then
      return nil, id
    else
      needed_pieces[#needed_pieces + 1] = parted(bytes)
    end
  end
  return entry
end

-- The entries of a list among the arguments whose length stands at a position, what comes after it, and the id of the
-- first unknown reference, which is left out. A row of M is one entry: `size` items, whose arguments begin at `first`;
-- `is_marked` if any has a mark. (A table for each of 5,000 items takes as long as to store them.)
local function read_entries(at, conversation_key, index_key)
  local entries, unknown, row = {}, nil, nil
  local first, last, after = list_at(at, FIELDS)
  for i = first, last, FIELDS do
    if row and ARGV[i] == 'M' then
      row.size, staged_count = row.size + 1, staged_count + 1
      row.is_marked = row.is_marked or ARGV[i + 3] ~= ''
    else
      local entry, missing = read_entry(i, conversation_key, index_key)
      entries[#entries + 1] = entry
      unknown, row = unknown or missing, entry and entry.first and entry
    end
  end
  return entries, after, unknown
end

-- Whether what was staged for the entries that were read is not there (any more): then all of it is brought again.
local function is_unstaged(staged_key)
  for _, name in ipairs(needed_pieces) do
    if redis.call('LLEN', pieces_key(name)) ~= tonumber(string.match(name, '%d+$')) then
      return true
    end
  end
  return staged_count > 0 and redis.call('LLEN', staged_key) ~= staged_count
end

local function count_entries(entries)
  local count = 0
  for _, entry in ipairs(entries) do
    count = count + entry.size
  end
  return count
end

-- Puts the bytes of entries into a reply, '' for those that were staged: who calls has them.
local function add_bytes(reply, entries)
  for _, entry in ipairs(entries) do
    for _ = 1, entry.size do
      reply[#reply + 1] = entry.bytes
    end
  end
  return reply
end

local function add_entry(chain, entry)
  add_span(chain, entry.at[1], entry.at[2], entry.at[2] + entry.size)
end

local function mark_entry(pending, entry)
  if not entry.first then
    return mark_pending(pending, entry.mark)
  end
  local first, last = entry.first + FIELDS - 1, entry.first + entry.size * FIELDS - 1
  for i = first, entry.is_marked and last or 0, FIELDS do
    mark_pending(pending, ARGV[i])
  end
end

local function push_chunked(command, key, values)
  for i = 1, #values, MANY do
    redis.call(command, key, unpack(values, i, math.min(i + MANY - 1, #values)))
  end
end

-- How many elements of the staged list entries need: what is stored already, or comes twice, is left out.
local function count_needed(entries)
  local needed, seen = 0, {}
  for _, entry in ipairs(entries) do
    if entry.staged and not (entry.place or seen[entry.id]) then
      needed = needed + entry.size
      seen[entry.id] = entry.mode == 'c' or nil
    end
  end
  return needed
end

-- Makes what was staged a segment of this number, which is new.
local function adopt(staged_key, segment)
  redis.call('RENAME', staged_key, segment_key(segment))
end

-- Makes pieces that were brought lasting; whoever gives the segment a time to live gives them one.
local function keep_pieces(pieces)
  if #pieces > 0 then
    local before = redis.call('HGET', PARTITION, 'pieces')
    redis.call('HSET', PARTITION, 'pieces', (before and before .. ',' or '') .. table.concat(pieces, ','))
    for _, one in ipairs(pieces) do
      redis.call('PERSIST', pieces_key(string.match(one, '^[^:]+')))
    end
  end
end

-- Appends entries to `chain` (closed), new items into `segment`, which what was staged has become; changes chain and
-- pending in place, notes each entry's place (`at`) and whether it is new there (`is_new`). pending: set of call ids that
-- wait for an output.
local function append_entries(entries, chain, segment, index_key, pending)
  local offset = redis.call('LLEN', segment_key(segment))
  local values, fields, fresh, pieces = {}, {}, {}, {}
  local count, used = 0, 0
  local function note_place(id, value, mark)
    fields[count + 1], fields[count + 2] = id, mark == '' and value or value .. ' ' .. mark
    count = count + 2
    if mark ~= '' and string.find(mark, '^[+~]') then
      fields[count + 1], fields[count + 2] = 'call:' .. string.sub(mark, 2), id
      count = count + 2
    end
  end
  for _, entry in ipairs(entries) do
    local twin = fresh[entry.id]
    if twin then
      entry.bytes, entry.mark = twin.bytes, twin.mark
    end
    local place = entry.place or twin and twin.at
    entry.at, entry.is_new = place or { segment, entry.staged or offset }, not place
    add_entry(chain, entry)
    if not place then
      local older = entry.mode == 'c' and redis.call('HGET', index_key, entry.id)
      local before, at = older and string.match(older, '^(%S+)') .. ',' or '', entry.at[2]
      if entry.first then
        local head, i = segment .. ':', entry.first
        for offset_there = at, at + entry.size - 1 do
          if entry.is_marked then
            note_place(ARGV[i + 1], head .. offset_there, ARGV[i + 3])
          else
            fields[count + 1], fields[count + 2] = ARGV[i + 1], head .. offset_there
            count = count + 2
          end
          i = i + FIELDS
        end
      else
        note_place(entry.id, before .. segment .. ':' .. at, entry.mark)
        local name = parted(entry.bytes)
        pieces[#pieces + 1] = name and name .. ':' .. segment .. ':' .. at
      end
      if entry.staged then
        used = at + entry.size
      else
        values[#values + 1], offset = entry.bytes, offset + 1
      end
      if entry.mode == 'c' then
        fresh[entry.id] = entry
      end
    end
    mark_entry(pending, entry)
  end
  if used > 0 then
    -- behind the last item that is needed none may stay
    redis.call('LTRIM', segment_key(segment), 0, used - 1)
  end
  push_chunked('RPUSH', segment_key(segment), values)
  push_chunked('HSET', index_key, fields)
  keep_pieces(pieces)
end

-- Notes an append of entries in the journal: who made it (a response's id, or ''), with which model, and the calls that
-- wait now. Only conversations need one: to fork at any point, to find an answer's model, to find all responses.
local function note_append(entries, segment, id, model, pending)
  local any_new = false
  for _, entry in ipairs(entries) do
    any_new = any_new or entry.is_new
  end
  if not is_kept() or (id == '' and not any_new) then
    return
  end
  local length = any_new and redis.call('LLEN', segment_key(segment)) or 0
  if id == '' then
    id = '@' .. segment .. ':' .. length
  end
  redis.call('ZADD', BASE .. 'journal', position(segment, length),
    id .. FIELD_BREAK .. model .. FIELD_BREAK .. format_pending(pending))
end

-- Appends entries to a branch, whose chain always ends in one open span on its own segment. A segment that a branch
-- comes to point into may not expire any more. id, model: for the journal.
--
-- What was staged becomes the branch's own segment if that is empty and all of it is needed (a branch has all of its own
-- segment), else one that the branch reads, as a fork does, before it goes on in its own.
local function append_to_branch(entries, line, index_key, id, model, staged_key)
  local key = branch_key(line)
  local fields = redis.call('HMGET', key, 'chain', 'pending', 'staged')
  local chain = close_chain(parse_chain(fields[1]))
  local pending = parse_pending(fields[2])
  local segment, needed = line, count_needed(entries)
  if needed > 0 then
    local fits = needed == staged_count and redis.call('LLEN', segment_key(line)) == 0
    if not fits then
      segment = new_segment()
      redis.call('HSET', key, 'staged', (fields[3] and fields[3] .. ',' or '') .. segment)
    end
    adopt(staged_key, segment)
    redis.call('PERSIST', segment_key(segment))
  end
  append_entries(entries, chain, segment, index_key, pending)
  for _, entry in ipairs(entries) do
    if entry.at[1] ~= line then
      hold(line, entry.at[1], entry.at[2] + entry.size)
    end
    if not entry.is_new then
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
  note_append(entries, segment, id, model, pending)
end
