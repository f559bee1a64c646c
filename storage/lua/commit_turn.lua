-- commit_turn: write a turn's items and its response, move the branch, release the lock; all or nothing.
-- KEYS  partition, conversation, branches, index, response, commit marker
-- ARGV  1 owner  2 mode  3 conversation id ('' = none)  4 branch  5 lock token  6 fence  7 base chain (closed)
--       8 pending calls at the base, joined with CALL_BREAK  9 retention s  10 marker's life s  11 store (1 or 0)
--       12 status  13 body
--       14 number of input entries, entries…, number of output entries, entries…
--   mode append: to the conversation's branch. chain: to the base chain, outside any conversation. record: the
--   response with its items stays readable, but nothing that follows inherits them (a failed turn).
-- Returns {'ok', updated_at ms}; {'dropped', ms} when the conversation is gone: the response was stored, the append
-- was not; {'conflict'} when the lock was lost and the branch taken: nothing was written, the lock is not ours;
-- {'repeated', 1 if the conversation lives, else 0} when this commit has been done before. An unknown reference
-- among the entries is left out.

local owner, mode = ARGV[1], ARGV[2]
local stored = ARGV[11] == '1'
local retention = tonumber(ARGV[9])
if redis.call('EXISTS', KEYS[5]) == 1 or redis.call('EXISTS', KEYS[6]) == 1 then
  return { 'repeated', conversation_lives(KEYS[2], ARGV[3]) and 1 or 0 }
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
local inputs, after_inputs = live_entries(14)
local outputs = live_entries(after_inputs)
local entries = {}
for _, list in ipairs({ inputs, outputs }) do
  for _, entry in ipairs(list) do
    entries[#entries + 1] = entry
  end
end

local result = 'ok'
local branch = ARGV[4]
local lock_key = BASE .. 'lock:' .. branch
local holder = ARGV[5] ~= '' and redis.call('GET', lock_key)
if mode == 'append' then
  if not conversation_lives(KEYS[2], ARGV[3]) or redis.call('HEXISTS', KEYS[3], branch .. ':chain') == 0 then
    mode, result = 'chain', 'dropped'
  elseif holder ~= ARGV[5] and (holder or redis.call('HGET', KEYS[3], branch .. ':fence') ~= ARGV[6]) then
    return { 'conflict' }
  end
end

-- Everything is checked: from here on the script only writes.
local seconds, milliseconds = now()
-- The base may have been deleted or have expired since the turn was opened: then no other segment may get its number.
local base, unused = {}, 0
for _, span in ipairs(parse_chain(ARGV[7])) do
  unused = math.max(unused, span[1] + 1)
  if redis.call('EXISTS', segment_key(span[1])) == 1 then
    base[#base + 1] = span
  end
end
local pending = parse_pending(ARGV[8])

-- A chain goes on in the segment it ends in while it is at that segment's tip and no branch writes there.
local function segment_after(chain)
  local last = chain[#chain]
  if last and redis.call('LLEN', segment_key(last[1])) == last[3]
    and redis.call('HEXISTS', KEYS[3], '#' .. last[1]) == 0 then
    return last[1]
  end
  return new_segment()
end

if mode == 'append' then
  append_to_branch(entries, KEYS[3], branch, KEYS[4])
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
  if not lasting then
    extend(segment_key(segment), retention)
  end
end
if holder and holder == ARGV[5] then
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
  redis.call('HSET', KEYS[5], 'status', ARGV[12], 'body', ARGV[13], 'snapshot', format_chain(snapshot),
    'context', format_chain(context), 'output', format_chain(output), 'pending', format_pending(pending),
    'created_at', seconds)
  redis.call('EXPIRE', KEYS[5], retention)
  redis.call('HINCRBY', KEYS[1], 'responses', 1)
  slide_expiry(context, KEYS[4], retention)
  slide_expiry(output, KEYS[4], retention)
else
  redis.call('SET', KEYS[6], 1, 'EX', ARGV[10])
end
return { result, milliseconds }
