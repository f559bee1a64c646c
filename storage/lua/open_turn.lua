-- open_turn: everything a turn needs before the upstream is called, in one trip.
-- KEYS  partition, conversation, branches, index, previous response
-- ARGV  owner, source ('conversation', 'response' or 'none'), conversation id ('' = none), branch ('' = active),
--       lock token, lease ms, retention s, number of ids, item ids…, number of call ids, call ids that are answered…
-- Returns {'ok', history, chain, pending, fence, branch, facts, known, calls}
--   history: a list of items for each span, tombstones included; chain: the same as a closed chain; pending: call
--   ids that wait for an output, joined with CALL_BREAK; fence: number of this lock; facts: {project_id, referrer};
--   known: for each id '' or its stored bytes with '=' before them, '<' when the history has it already;
--   calls: for each call id 1 when the partition knows that call, else 0
-- or {'conversation_not_found'}, {'branch_not_found', name}, {'response_not_found'}, {'locked', ms left}.
-- Takes the branch's lock (conversations only): nothing else is written unless a response nears its expiry.
-- The same token may call again and finds its own lock.

local owner, source = ARGV[1], ARGV[2]
local mine = owned(owner)
local chain, pending, fence, branch, facts = {}, '', 0, '', {}

if source == 'conversation' then
  if not mine or not conversation_lives(KEYS[2], ARGV[3]) then
    return { 'conversation_not_found' }
  end
  branch = branch_name(KEYS[2], ARGV[4])
  local fields = redis.call('HMGET', KEYS[3], branch .. ':chain', branch .. ':pending', branch .. ':fence')
  if not fields[1] then
    return { 'branch_not_found', branch }
  end
  local lock_key = BASE .. 'lock:' .. branch
  local holder = redis.call('GET', lock_key)
  if holder and holder ~= ARGV[5] then
    return { 'locked', redis.call('PTTL', lock_key) }
  end
  fence = tonumber(fields[3] or 0)
  if not holder then
    fence = redis.call('HINCRBY', KEYS[3], branch .. ':fence', 1)
    redis.call('SET', lock_key, ARGV[5], 'PX', ARGV[6])
  end
  chain, pending = close_chain(parse_chain(fields[1])), fields[2] or ''
  facts = redis.call('HMGET', KEYS[2], 'project_id', 'referrer')
  facts = { facts[1] or '', facts[2] or '' }
elseif source == 'response' then
  local fields = mine and redis.call('HMGET', KEYS[5], 'snapshot', 'pending')
  if not fields or not fields[1] then
    return { 'response_not_found' }
  end
  chain, pending = parse_chain(fields[1]), fields[2] or ''
  local retention = tonumber(ARGV[7])
  if redis.call('TTL', KEYS[5]) < retention / 2 then
    extend(KEYS[5], retention)
    slide_expiry(chain, KEYS[4], retention)
    -- a failed turn's own items are not in its snapshot
    for _, own in ipairs(redis.call('HMGET', KEYS[5], 'context', 'output')) do
      slide_expiry(parse_chain(own), KEYS[4], retention)
    end
  end
end

local at = 8
local known, calls = {}, {}
for i = 1, tonumber(ARGV[at]) do
  local bytes, places, _
  if mine then
    bytes, _, _, places = load_item(KEYS[4], ARGV[at + i])
  end
  if not bytes then
    known[i] = ''
  elseif any_in_chain(chain, places) then
    known[i] = '<' .. bytes
  elseif is_hidden(KEYS[2], KEYS[3], places) then
    known[i] = ''
  else
    known[i] = '=' .. bytes
  end
end
at = at + tonumber(ARGV[at]) + 1
for i = 1, tonumber(ARGV[at]) do
  calls[i] = mine and redis.call('HEXISTS', KEYS[4], 'call:' .. ARGV[at + i]) or 0
end

-- a call whose item was deleted no longer waits
local waiting = {}
for call_id in string.gmatch(pending, CALL_ID) do
  if redis.call('HEXISTS', KEYS[4], 'call:' .. call_id) == 1 then
    waiting[#waiting + 1] = call_id
  end
end
return { 'ok', read_spans(chain), format_chain(chain), table.concat(waiting, CALL_BREAK), fence, branch, facts, known, calls }
