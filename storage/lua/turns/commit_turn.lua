-- commit_turn: write a turn's items and its response, move the branch, release the lock; all or nothing.
-- needs: append
-- prolongs: whole
-- lists: the turn
-- KEYS  partition, conversation, branches, index, response, commit marker, listings (if any), what was staged (if
--       anything was)
-- ARGV  1 owner  2 mode  3 conversation id ('' = none)  4 line: of the branch, or of the one that is forked (-1: none)
--       5 lock ('' = none)  6 lock token  7 base chain (closed)  8 pending calls at the base, joined with CALL_BREAK
--       9 retention s  10 store (1 or 0)  11 status  12 body  13 id of the response  14 model
--       15 listings of conversations that it is noted in  16 responses that the list behind those keeps (0: there is none)
--       17 number of input entries, entries…, number of output entries, entries…, and behind these, where it is needed:
--       new branch's name, or the name of the old MAIN; id of the last inherited item; token of a response that was
--       accepted before its turn ran ('' = none); marker's life s
--   mode append: to the conversation's branch. fork: to a new branch that starts with the base chain. promote: the
--   same, and it becomes MAIN. chain: to the base chain, outside any conversation. record: the response with its
--   items stays readable, but nothing that follows inherits them (a failed turn).
-- Returns {'ok', updated_at ms, branch (fork, promote: see describe; else empty), backup's name or '', on a branch the
-- places of the entries as a chain, else ''};
-- {'dropped', 1 if the conversation lives, else 0} when the conversation or the branch is gone: the response was
-- stored, the append was not; {'conflict'} when the lock was lost and the branch or its name taken: nothing was
-- written, the lock is not ours; {'repeated', 1 if the conversation lives, else 0} when this commit has been done before;
-- {'unstaged'} when what was staged is gone: nothing was written. An unknown reference among the entries is left out.
-- Numbers that are only calculated with stay the text that they came as; Lua takes that too.

local conversation_key, branches_key, index_key = KEYS[2], KEYS[3], KEYS[4]
local response_key, marker_key = KEYS[5], KEYS[6]
local owner, mode, conversation_id, line, lock = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local token, base_chain, base_pending, retention = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local stored, status, body, response_id, model = ARGV[10] == '1', ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local listed, most = ARGV[15], ARGV[16]
local first_listing, inputs_at = 7, 17
local staged_key = KEYS[first_listing + listed + (most == '0' and 0 or 1)]

line = tonumber(line)
local _, _, outputs_at = list_at(inputs_at, FIELDS)
local _, _, rest_at = list_at(outputs_at, FIELDS)
local new_name, anchor, job_token, marker_life = unpack(ARGV, rest_at, rest_at + 3)
new_name, anchor, job_token = new_name or '', anchor or '', job_token or ''
local accepted = redis.call('HMGET', response_key, 'status', 'token', 'created_at')
local unfinished = is_unfinished(accepted[1])
if (accepted[1] and not unfinished) or redis.call('EXISTS', marker_key) == 1 then
  return { 'repeated', conversation_lives(conversation_key, conversation_id) and 1 or 0 }
end
if (job_token ~= '' or unfinished) and accepted[2] ~= job_token then
  return { 'conflict' }
end
if not owned(owner) and redis.call('EXISTS', PARTITION) == 1 then
  return { 'conflict' }
end

local inputs = read_entries(inputs_at, conversation_key, index_key)
local outputs = read_entries(outputs_at, conversation_key, index_key)
if is_unstaged(staged_key) then
  return { 'unstaged' }
end
local entries = {}
for _, list in ipairs({ inputs, outputs }) do
  for _, entry in ipairs(list) do
    entries[#entries + 1] = entry
  end
end

local result = 'ok'
local lives = conversation_lives(conversation_key, conversation_id)
local lock_key = BASE .. 'lock:' .. lock
local holder = lock ~= '' and redis.call('GET', lock_key)
if mode == 'append' then
  if not lives or redis.call('EXISTS', branch_key(line)) == 0 then
    mode, result = 'chain', 'dropped'
  elseif holder ~= token and (holder or redis.call('HGET', branch_key(line), 'taken_by') ~= token) then
    -- somebody has taken the branch since
    return { 'conflict' }
  end
elseif mode == 'fork' or mode == 'promote' then
  if not lives then
    mode, result = 'chain', 'dropped'
  elseif mode == 'fork' and holder ~= token and not name_is_free(branches_key, new_name) then
    return { 'conflict' }
  end
end
local on_branch = mode == 'append' or mode == 'fork' or mode == 'promote'

-- Everything is checked: from here on the script only writes.
local seconds, milliseconds = now()
-- What of the base is gone leaves its number behind: no other segment may get it.
local opened_with = parse_chain(base_chain)
local base, unused = still_there(opened_with), 0
for _, span in ipairs(opened_with) do
  unused = math.max(unused, span[1] + 1)
end
local pending = parse_pending(base_pending)

-- A chain goes on in the segment it ends in while it is at that segment's tip and no branch has written that.
local function segment_after(chain)
  local last = chain[#chain]
  if last and redis.call('LLEN', segment_key(last[1])) == last[3] and not writer_of(last[1], last[3] - 1) then
    return last[1]
  end
  return new_segment()
end

local backup = ''
if on_branch then
  if mode ~= 'append' then
    local parent = line >= 0 and line
    line = create_line(base, pending, parent, anchor, '', starts_mixed(base, parent))
    if mode == 'fork' then
      name_line(branches_key, new_name, line)
    else
      backup = promote(conversation_key, branches_key, line, new_name)
    end
  end
  local current, fresh = chain_of(line), {}
  for _, entry in ipairs(entries) do
    -- it may have come to the branch while the turn ran
    if not entry.places or not any_in_chain(current, entry.places) then
      fresh[#fresh + 1] = entry
    end
    entry.at = entry.place
  end
  append_to_branch(fresh, line, index_key, response_id, model, staged_key)
  redis.call('HSET', conversation_key, 'updated_at', milliseconds)
elseif stored then
  redis.call('HSET', PARTITION, 'owner', owner)
  if tonumber(redis.call('HGET', PARTITION, 'next_segment') or '0') < unused then
    redis.call('HSET', PARTITION, 'next_segment', unused)
  end
  local target = {}
  for _, entry in ipairs(entries) do
    if entry.place then
      target[1] = { entry.place[1], entry.place[2], entry.place[2] + 1 }
    end
  end
  if #base > 0 then
    target = base
  end
  local is_staged = count_needed(entries) > 0
  local segment = (mode == 'record' or is_staged) and new_segment() or segment_after(target)
  -- a branch may point into the segment that a chain goes on in
  local lasting = redis.call('TTL', segment_key(segment)) == -1
  if is_staged then
    adopt(staged_key, segment)
  end
  append_entries(entries, {}, segment, index_key, {})
  local waiting = parse_pending(base_pending)
  for _, entry in ipairs(mode == 'record' and {} or entries) do
    mark_entry(waiting, entry)
  end
  note_append(entries, segment, response_id, model, waiting)
  if not lasting then
    extend(segment_key(segment), retention)
    pieces_of(segment, function(key) extend(key, retention) end)
  end
end
if on_branch or stored then
  name_edition(response_id)
end
if holder and holder == token then
  redis.call('DEL', lock_key)
end

if stored then
  local context, output = parse_chain(format_chain(base)), {}
  for _, entry in ipairs(inputs) do
    add_entry(context, entry)
  end
  local snapshot = base
  if mode ~= 'record' then
    snapshot = parse_chain(format_chain(context))
    for _, entry in ipairs(entries) do
      mark_entry(pending, entry)
    end
  end
  for _, entry in ipairs(outputs) do
    add_entry(output, entry)
    if mode ~= 'record' then
      add_entry(snapshot, entry)
    end
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
  redis.call('SET', marker_key, 1, 'EX', marker_life)
end
if result == 'dropped' then
  return { result, lives and 1 or 0 }
end
local places = {}
for _, entry in ipairs(on_branch and entries or {}) do
  add_entry(places, entry)
end
local made = mode ~= 'append' and on_branch and describe(conversation_key, line) or {}
return { result, milliseconds, made, backup, format_chain(places) }
