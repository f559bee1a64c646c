-- commit_turn: write a turn's items and its response, move the branch, release the lock; all or nothing.
-- KEYS  partition, conversation, branches, index, response, commit marker
-- ARGV  1 owner  2 mode  3 conversation id ('' = none)  4 line: of the branch, or of the one that is forked (-1: none)
--       5 lock ('' = none)  6 lock token  7 fence  8 base chain (closed)  9 pending calls at the base, joined with
--       CALL_BREAK  10 retention s  11 marker's life s  12 store (1 or 0)  13 status  14 body  15 id of the response
--       16 model  17 new branch's name, or the name of the old MAIN  18 id of the last inherited item
--       19 token of a response that was accepted before its turn ran ('' = none)
--       20 number of input entries, entries…, number of output entries, entries…
--   mode append: to the conversation's branch. fork: to a new branch that starts with the base chain. promote: the
--   same, and it becomes MAIN. chain: to the base chain, outside any conversation. record: the response with its
--   items stays readable, but nothing that follows inherits them (a failed turn).
-- Returns {'ok', updated_at ms, branch (fork, promote: see describe; else empty), backup's name or ''};
-- {'dropped', 1 if the conversation lives, else 0} when the conversation or the branch is gone: the response was
-- stored, the append was not; {'conflict'} when the lock was lost and the branch or its name taken: nothing was written,
-- the lock is not ours; {'repeated', 1 if the conversation lives, else 0} when this commit has been done before. An
-- unknown reference among the entries is left out.

local owner, mode = ARGV[1], ARGV[2]
local stored = ARGV[12] == '1'
local retention = tonumber(ARGV[10])
local accepted = redis.call('HMGET', KEYS[5], 'status', 'token', 'created_at')
local unfinished = accepted[1] == 'queued' or accepted[1] == 'in_progress'
if (accepted[1] and not unfinished) or redis.call('EXISTS', KEYS[6]) == 1 then
  return { 'repeated', conversation_lives(KEYS[2], ARGV[3]) and 1 or 0 }
end
if (ARGV[19] ~= '' or unfinished) and accepted[2] ~= ARGV[19] then
  return { 'conflict' }
end
if not owned(owner) and redis.call('EXISTS', KEYS[1]) == 1 then
  return { 'conflict' }
end

local function live_entries(at)
  local entries = {}
  for i = 0, tonumber(ARGV[at]) - 1 do
    local one = read_entries(at + 1 + i * FIELDS, 1, KEYS[4])
    if one then
      entries[#entries + 1] = one[1]
    end
  end
  return entries, at + 1 + tonumber(ARGV[at]) * FIELDS
end
local inputs, after_inputs = live_entries(20)
local outputs = live_entries(after_inputs)
local entries = {}
for _, list in ipairs({ inputs, outputs }) do
  for _, entry in ipairs(list) do
    entries[#entries + 1] = entry
  end
end

local result = 'ok'
local line = tonumber(ARGV[4])
local lives = conversation_lives(KEYS[2], ARGV[3])
local lock_key = BASE .. 'lock:' .. ARGV[5]
local holder = ARGV[5] ~= '' and redis.call('GET', lock_key)
if mode == 'append' then
  if not lives or redis.call('EXISTS', branch_key(line)) == 0 then
    mode, result = 'chain', 'dropped'
  elseif holder ~= ARGV[6] and (holder or redis.call('HGET', branch_key(line), 'fence') ~= ARGV[7]) then
    return { 'conflict' }
  end
elseif mode == 'fork' or mode == 'promote' then
  if not lives then
    mode, result = 'chain', 'dropped'
  elseif mode == 'fork' and holder ~= ARGV[6] and not name_is_free(KEYS[3], ARGV[17]) then
    return { 'conflict' }
  end
end
local on_branch = mode == 'append' or mode == 'fork' or mode == 'promote'

-- Everything is checked: from here on the script only writes.
local seconds, milliseconds = now()
-- What of the base is gone leaves its number behind: no other segment may get it.
local opened_with = parse_chain(ARGV[8])
local base, unused = still_there(opened_with), 0
for _, span in ipairs(opened_with) do
  unused = math.max(unused, span[1] + 1)
end
local pending = parse_pending(ARGV[9])

-- A chain goes on in the segment it ends in while it is at that segment's tip and no branch writes there.
local function segment_after(chain)
  local last = chain[#chain]
  if last and redis.call('LLEN', segment_key(last[1])) == last[3]
    and redis.call('EXISTS', branch_key(last[1])) == 0 then
    return last[1]
  end
  return new_segment()
end

local backup = ''
if on_branch then
  if mode ~= 'append' then
    line = create_line(base, pending, line >= 0 and line, ARGV[18], '', false)
    if mode == 'fork' then
      name_line(KEYS[3], ARGV[17], line)
    else
      backup = promote(KEYS[2], KEYS[3], line, ARGV[17])
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
  append_to_branch(fresh, line, KEYS[4], ARGV[15], ARGV[16])
  redis.call('HSET', KEYS[2], 'updated_at', milliseconds)
elseif stored then
  redis.call('HSET', KEYS[1], 'owner', owner)
  if tonumber(redis.call('HGET', KEYS[1], 'next_segment') or '0') < unused then
    redis.call('HSET', KEYS[1], 'next_segment', unused)
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
  local segment = mode == 'record' and new_segment() or segment_after(target)
  -- a branch may point into the segment that a chain goes on in
  local lasting = redis.call('TTL', segment_key(segment)) == -1
  append_entries(entries, {}, segment, KEYS[4], {})
  local waiting = parse_pending(ARGV[9])
  for _, entry in ipairs(mode == 'record' and {} or entries) do
    mark_pending(waiting, entry.mark)
  end
  note_append(segment, ARGV[15], ARGV[16], waiting)
  if not lasting then
    extend(segment_key(segment), retention)
  end
end
if holder and holder == ARGV[6] then
  redis.call('DEL', lock_key)
end

if stored then
  local context, output = parse_chain(format_chain(base)), {}
  for _, entry in ipairs(inputs) do
    add_span(context, entry.at[1], entry.at[2], entry.at[2] + 1)
  end
  local snapshot = base
  if mode ~= 'record' then
    snapshot = parse_chain(format_chain(context))
    for _, entry in ipairs(entries) do
      mark_pending(pending, entry.mark)
    end
  end
  for _, entry in ipairs(outputs) do
    add_span(output, entry.at[1], entry.at[2], entry.at[2] + 1)
    if mode ~= 'record' then
      add_span(snapshot, entry.at[1], entry.at[2], entry.at[2] + 1)
    end
  end
  redis.call('HSET', KEYS[5], 'status', ARGV[13], 'body', ARGV[14], 'snapshot', format_chain(snapshot),
    'context', format_chain(context), 'output', format_chain(output), 'pending', format_pending(pending),
    'created_at', unfinished and accepted[3] or seconds)
  redis.call('HDEL', KEYS[5], 'token', 'job', 'attempts', 'lease_until', 'lock', 'accepted_at')
  redis.call('EXPIRE', KEYS[5], retention)
  if not unfinished then
    redis.call('HINCRBY', KEYS[1], 'responses', 1)
  end
  for _, span in ipairs(output) do
    context[#context + 1] = span
  end
  slide_expiry(context, KEYS[4], retention)
else
  redis.call('SET', KEYS[6], 1, 'EX', ARGV[11])
end
if result == 'dropped' then
  return { result, lives and 1 or 0 }
end
return { result, milliseconds, mode ~= 'append' and on_branch and describe(KEYS[2], line) or {}, backup }
