-- record_turn: write a turn of an app that keeps no ids: to the line that its history goes on, or beside it.
-- needs: append, digests
-- prolongs: whole
-- lists: the turn
-- KEYS  partition, conversation, branches, index, response, commit marker, listings (if any), what was staged (if
--       anything was)
-- ARGV  1 owner  2 conversation id  3 act  4 line, 5 segment and 6 offset of the item that the turn comes after (-1: its
--       history begins here)  7 retention s  8 store (1 or 0)  9 status  10 body  11 id of the response  12 model
--       13 what the keys of digests begin with  14 listings of conversations that it is noted in  15 responses that the
--       list behind those keeps (0: there is none)
--       16 number of metadata pairs, pairs…, number of input entries, entries…, number of output entries, entries…,
--       number of marks, marks…, number of leads, leads…, and behind these, where it is needed: name of a new branch
--       beside the others, or of what was MAIN; description of a new branch ('' = none); token of a response that was
--       accepted before its turn ran ('' = none); marker's life s; digests' time to live in ms (0 = none)
--   act new: the conversation is made, with these metadata. grow: appended if the item is the line's last and no other
--   turn runs there; else a new line from the item on, which becomes MAIN. tip: the same, but else nothing is done.
--   replace: the same as grow, but what comes after the item on its line goes. side: a new branch from the item on.
--   A mark scores anew what a digest leads to: name, member, score. A lead is what digests lead to from now on, its parts
--   with | between: where it leads, as the number of an entry (from 1, inputs first; 0: the item that the turn
--   comes after; '': the line alone); what comes behind that place; what was asked, as a number too (-1: nothing); what
--   comes behind that; 1 if it was gone on from, else 0, and 1 if it takes the place of what begins like it, else 0; names
--   of the digests, with blanks between. They are written with the turn or not at all.
-- Returns {'ok', updated_at ms, what was done ('new', 'appended', 'forked'), line, its name, the places of the entries
-- as a chain}; {'repeated', 1 if the conversation lives, else 0, line, its name, places} when it was done before;
-- {'moved', 1} for a tip that is none any more, or not free: nothing was written;
-- {'astray', 1} when the item is on no line any more: nothing was written;
-- {'dropped', 1 if the conversation lives, else 0} when the conversation is gone: nothing was written;
-- {'conflict'} when the response has been taken over by another run, {'unstaged'} when what was staged is gone: nothing
-- was written. An unknown reference among the entries is left out. It never waits: where a lock is held, the turn gets
-- a line of its own.

local conversation_key, branches_key, index_key, response_key, marker_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local owner, conversation_id, act, line = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local segment, offset, retention = ARGV[5], ARGV[6], ARGV[7]
local stored, status, body, response_id, model = ARGV[8] == '1', ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local digests_at, listed, most = ARGV[13], ARGV[14], ARGV[15]
local first_listing, metadata_at = 7, 16
local staged_key = KEYS[first_listing + listed + (most == '0' and 0 or 1)]

line, segment, offset = tonumber(line), tonumber(segment), tonumber(offset)
local first_pair, last_pair, inputs_at = list_at(metadata_at, 2)
local _, _, outputs_at = list_at(inputs_at, FIELDS)
local _, _, marks_at = list_at(outputs_at, FIELDS)
local first_mark, last_mark, leads_at = list_at(marks_at, MARK_FIELDS)
local first_lead, last_lead, rest_at = list_at(leads_at, 1)
local name, description, job_token, marker_life, life = unpack(ARGV, rest_at, rest_at + 4)
name, description, job_token, life = name or '', description or '', job_token or '', tonumber(life or '0')
local accepted = redis.call('HMGET', response_key, 'status', 'token', 'created_at', 'context', 'output')
local unfinished = is_unfinished(accepted[1])
local marked = redis.call('GET', marker_key)
local lives = conversation_lives(conversation_key, conversation_id)
if (accepted[1] and not unfinished) or marked then
  local places = marked or accepted[4] .. ',' .. accepted[5]
  local last = parse_chain(places)
  last = last[#last]
  -- what was staged is a segment that no branch writes
  local on = last and (redis.call('EXISTS', branch_key(last[1])) == 1 and last[1]
    or branch_with(conversation_key, branches_key, { { last[1], last[3] - 1 } })) or -1
  return { 'repeated', lives and 1 or 0, on, redis.call('HGET', branch_key(on), 'name') or '', places }
end
if (job_token ~= '' or unfinished) and accepted[2] ~= job_token then
  return { 'conflict' }
end
if redis.call('EXISTS', PARTITION) == 1 and not owned(owner) then
  return { 'dropped', 0 }
end
if act == 'new' and redis.call('EXISTS', conversation_key) == 1 then
  return { 'dropped', lives and 1 or 0 }
elseif act ~= 'new' and not lives then
  return { 'dropped', 0 }
end

local inputs = read_entries(inputs_at, conversation_key, index_key)
local outputs = read_entries(outputs_at, conversation_key, index_key)
if is_unstaged(staged_key) then
  return { 'unstaged' }
end

-- Where the turn goes: behind `base`, on `line` if that ends there.
local base, pending, anchor, appends, replaced = {}, {}, '', false, nil
if act ~= 'new' and segment >= 0 then
  local places = { { segment, offset } }
  local chain = chain_of(line)
  if not chain or not chain_holds(chain, segment, offset) then
    line, chain = branch_with(conversation_key, branches_key, places)
  end
  if not chain or redis.call('LLEN', segment_key(segment)) <= offset then
    return { 'astray', 1 }
  end
  local i, at = find_on_chain(chain, places, true)
  base = cut(chain, i, at + 1)
  local rest = add_rest({}, chain, i, at)
  local is_tip, is_free = not last_item(rest), redis.call('EXISTS', BASE .. 'lock:' .. line) == 0
  if act == 'tip' and not (is_tip and is_free) then
    return { 'moved', 1 }
  end
  -- an answer that nobody took goes only where it lies on its line alone
  local is_last = #rest == 1 and rest[1][1] == line and redis.call('EXISTS', holders_key(line)) == 0
  if act == 'replace' and is_last and is_free and not is_tip then
    replaced, is_tip = rest[1], true
  end
  appends = act ~= 'side' and is_tip and is_free
  pending = is_tip and not replaced and parse_pending(redis.call('HGET', branch_key(line), 'pending'))
    or pending_at(base, index_key, is_mixed(line))
  anchor = item_id(last_item(base) or '') or ''
elseif act ~= 'new' then
  line = -1
end

-- Everything is checked: from here on the script only writes.
local seconds, milliseconds = now()
local done = appends and 'appended' or 'forked'
if act == 'new' then
  done = 'new'
  local fields = { 'id', conversation_id, 'created_at', seconds, 'updated_at', milliseconds, 'active_branch', 'MAIN' }
  for i = first_pair, last_pair, 2 do
    fields[#fields + 1] = 'm:' .. ARGV[i]
    fields[#fields + 1] = ARGV[i + 1]
  end
  redis.call('HSET', PARTITION, 'owner', owner, 'kept', 1)
  line = new_segment()
  redis.call('HSET', branch_key(line), 'chain', line .. ':0:', 'pending', '', 'created_at', milliseconds,
    'updated_at', milliseconds)
  name_line(branches_key, 'MAIN', line)
  redis.call('HSET', conversation_key, unpack(fields))
elseif replaced then
  local gone = {}
  for at = replaced[2], replaced[3] - 1 do
    local key = segment_key(line)
    local element = redis.call('LINDEX', key, at)
    local id = item_id(element) or ''
    gone[parted(element) or ''] = true
    local places, mark = places_of(index_key, id)
    if places then
      redis.call('HDEL', index_key, id)
      local call = 'call:' .. string.sub(mark, 2)
      if string.find(mark, '^[+~]') and redis.call('HGET', index_key, call) == id then
        redis.call('HDEL', index_key, call)
      end
      redis.call('LSET', key, at, '')
      redis.call('ZADD', BASE .. 'tombstones', position(line, at), line .. ':' .. at)
    end
  end
  free_pieces(function(name) return gone[name] end)
  redis.call('HSET', branch_key(line), 'pending', format_pending(pending))
  rename_edition(response_id)
elseif not appends then
  local parent = line and line >= 0 and line
  line = create_line(base, pending, parent, anchor, description, parent and is_mixed(parent))
  if act == 'side' then
    while not name_is_free(branches_key, name) do
      name = name .. 'x'
    end
    name_line(branches_key, name, line)
  else
    promote(conversation_key, branches_key, line, name)
  end
end

local current = chain_of(line)
local fresh = {}
for _, entries in ipairs({ inputs, outputs }) do
  for _, entry in ipairs(entries) do
    if not entry.places or not any_in_chain(current, entry.places) then
      fresh[#fresh + 1] = entry
    end
    entry.at = entry.place
  end
end
name_edition(response_id)
append_to_branch(fresh, line, index_key, response_id, model, staged_key)
if appends then
  -- whoever has lost the line's lock finds that it has moved on
  redis.call('HSET', branch_key(line), 'taken_by', response_id)
end
redis.call('HSET', conversation_key, 'updated_at', milliseconds)

local context, output, places = parse_chain(format_chain(current)), {}, {}
for _, entry in ipairs(inputs) do
  add_entry(context, entry)
  add_entry(places, entry)
end
for _, entry in ipairs(outputs) do
  add_entry(output, entry)
  add_entry(places, entry)
end
if stored then
  local snapshot = parse_chain(format_chain(context))
  for _, entries in ipairs({ inputs, outputs }) do
    for _, entry in ipairs(entries) do
      mark_entry(pending, entry)
    end
  end
  for _, entry in ipairs(outputs) do
    add_entry(snapshot, entry)
  end
  redis.call('HSET', response_key, 'status', status, 'body', body, 'snapshot', format_chain(snapshot),
    'context', format_chain(context), 'output', format_chain(output), 'pending', format_pending(pending),
    'created_at', unfinished and accepted[3] or seconds)
  if unfinished then
    drop_job(response_key, BASE .. 'job:' .. response_id)
  end
  redis.call('EXPIRE', response_key, retention)
  if not unfinished then
    redis.call('HINCRBY', PARTITION, 'responses', 1)
  end
  for _, span in ipairs(output) do
    context[#context + 1] = span
  end
  slide_expiry(context, index_key, retention)
else
  redis.call('SET', marker_key, format_chain(places), 'EX', marker_life)
end

local touched, held = {}, {}
for i = first_mark, last_mark, MARK_FIELDS do
  redis.call('ZADD', digests_at .. ARGV[i], 'XX', ARGV[i + 2], ARGV[i + 1])
end
-- Where an entry lies, nil where it was left out.
local function place_at(number)
  if number < 1 then
    return number == 0 and segment .. ':' .. offset or '-1:-1'
  end
  local input_count = tonumber(ARGV[inputs_at])
  local argument = (number > input_count and outputs_at - input_count * FIELDS or inputs_at) + 1 + (number - 1) * FIELDS
  for _, entries in ipairs({ inputs, outputs }) do
    for _, entry in ipairs(entries) do
      local further = (argument - entry.argument) / FIELDS
      if further >= 0 and further < entry.size then
        return entry.at[1] .. ':' .. entry.at[2] + further
      end
    end
  end
end
for i = first_lead, last_lead do
  local to, after, asked, rest, is_behind, replaces, digests = string.match(ARGV[i], LEAD)
  local place, asked_at = to ~= '' and place_at(tonumber(to)), place_at(tonumber(asked))
  if place ~= nil and asked_at then
    local member = string.match(BASE, '{(.*)}') .. ':' .. line .. (place and ':' .. place or '') .. after .. asked_at
      .. rest
    local score = string.format('%.0f', milliseconds - (is_behind == '1' and CONTINUED or 0))
    for digest in string.gmatch(digests, '%S+') do
      lead_to(digests_at .. digest, member, score, replaces == '1')
      touched[#touched + 1], held[#held + 1] = digests_at .. digest, digest
    end
  end
end
let_live(touched, life)
push_chunked('RPUSH', BASE .. 'digests', held)
return { 'ok', milliseconds, done, line, redis.call('HGET', branch_key(line), 'name'), format_chain(places) }
