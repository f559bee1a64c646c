-- open_turn: everything a turn needs before the upstream is called, in one trip.
-- KEYS  partition, conversation, branches, index, previous response
-- ARGV  1 owner  2 source ('conversation', 'response' or 'none')  3 conversation id ('' = none)  4 branch: that it
--       continues, or that is forked ('' = the active one, or the one that has the target)
--       5 lock token ('' = only look)  6 lease ms  7 retention s  8 fork point ('' = no fork)  9 target
--       10 new branch's name ('' = it will become MAIN)  11 ms for which what a fork inherits is kept from being freed
--       12 number of ids, item ids…, number of call ids, call ids that are answered…
-- Returns {'ok', history, chain, pending, fence, branch, facts, known, calls, line, lock, anchor, model}
--   history: a list of items for each span, tombstones included; chain: the same as a closed chain; pending: call
--   ids that wait for an output, joined with CALL_BREAK; fence: number of this lock; branch: its name; facts:
--   {project_id, referrer};
--   known: for each id '' or its stored bytes with '=' before them, '<' when the history has it already;
--   calls: for each call id 1 when the partition knows that call, else 0; line: the branch that it continues, or that
--   is forked (-1: none); lock: which lock was taken, '' for none; anchor: id of the last inherited item or '';
--   model: of the answer that a fork replaces, or ''
-- or {'conversation_not_found'}, {'branch_not_found', name}, {'response_not_found'}, {'response_unfinished'},
-- {'locked', ms left}, or what
-- fork_branch refuses.
-- Takes a lock (conversations only): the branch's; of a fork its new name's, or MAIN's where it will become MAIN.
-- Nothing else is written unless a response nears its expiry. The same token may call again and finds its own lock.
-- Without a token no lock is taken or minded, and nothing is written.

local owner, source, looks = ARGV[1], ARGV[2], ARGV[5] == ''
local mine = owned(owner)
local chain, pending, fence, branch, facts, lock = {}, '', 0, '', {}, ''
local line, anchor, model = -1, '', ''

-- Takes a lock or returns nil and the refusal. `own`: the line whose fence it counts up.
local function take_lock(name, own)
  if looks then
    return 0
  end
  local key = BASE .. 'lock:' .. name
  local holder = redis.call('GET', key)
  if holder and holder ~= ARGV[5] then
    return nil, { 'locked', redis.call('PTTL', key) }
  end
  if not holder then
    redis.call('SET', key, ARGV[5], 'PX', ARGV[6])
    if own then
      redis.call('HINCRBY', branch_key(own), 'fence', 1)
    end
  end
  lock = name
  return own and tonumber(redis.call('HGET', branch_key(own), 'fence')) or 0
end

local refusal
if source == 'conversation' then
  if not mine or not conversation_lives(KEYS[2], ARGV[3]) then
    return { 'conversation_not_found' }
  end
  local point, target, new_name = ARGV[8], ARGV[9], ARGV[10]
  local fork
  fork, refusal = resolve_fork(KEYS[2], KEYS[3], KEYS[4], ARGV[4], point == '' and 'tip' or point, target)
  if not fork then
    return refusal
  end
  chain, pending, line, model = fork.base, format_pending(fork.pending), fork.line or -1, fork.model
  if point == '' then
    branch = redis.call('HGET', branch_key(line), 'name')
    fence, refusal = take_lock(tostring(line), line)
  else
    branch = string.lower(new_name) == 'main' and 'MAIN' or new_name
    if branch ~= '' and redis.call('ZSCORE', KEYS[3], branch) then
      return { 'branch_exists', branch }
    end
    if branch ~= '' then
      fence, refusal = take_lock('=' .. branch)
    else
      branch = 'MAIN'
      local main = tonumber(redis.call('ZSCORE', KEYS[3], 'MAIN'))
      fence, refusal = take_lock(tostring(main), main)
    end
    anchor = item_id(last_item(chain) or '') or ''
  end
  if not fence then
    return refusal
  end
  if point ~= '' and not looks then
    local _, milliseconds = now()
    for segment, to in pairs(reach_of(chain)) do
      note_reach(segment, to, milliseconds + tonumber(ARGV[11]))
    end
  end
  facts = redis.call('HMGET', KEYS[2], 'project_id', 'referrer')
  facts = { facts[1] or '', facts[2] or '' }
elseif source == 'response' then
  local fields = mine and redis.call('HMGET', KEYS[5], 'snapshot', 'pending', 'status')
  if not fields or not fields[1] then
    return { 'response_not_found' }
  end
  if fields[3] == 'queued' or fields[3] == 'in_progress' then
    return { 'response_unfinished' }
  end
  chain, pending = parse_chain(fields[1]), fields[2] or ''
  local retention = tonumber(ARGV[7])
  if not looks and redis.call('TTL', KEYS[5]) < retention / 2 then
    extend(KEYS[5], retention)
    slide_expiry(chain, KEYS[4], retention)
    -- a failed turn's own items are not in its snapshot
    for _, own in ipairs(redis.call('HMGET', KEYS[5], 'context', 'output')) do
      slide_expiry(parse_chain(own), KEYS[4], retention)
    end
  end
end

-- An item of a chain, from the place where the chain has it: where it went with its conversation and was brought again,
-- the other place holds something else.
local function bytes_in_chain(places)
  for _, place in ipairs(places) do
    local bytes = chain_holds(chain, place[1], place[2]) and redis.call('LINDEX', segment_key(place[1]), place[2])
    if bytes and bytes ~= '' then
      return bytes
    end
  end
end

local at = 12
local known, calls = {}, {}
for i = 1, tonumber(ARGV[at]) do
  local bytes, places, _
  if mine then
    bytes, _, _, places = load_item(KEYS[4], ARGV[at + i])
  end
  local seen = bytes and bytes_in_chain(places)
  if seen then
    known[i] = '<' .. seen
  elseif not bytes or is_hidden(KEYS[2], places) then
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
return { 'ok', read_spans(chain), format_chain(chain), table.concat(waiting, CALL_BREAK), fence, branch, facts, known,
  calls, line, lock, anchor, model }
