-- open_turn: everything a turn needs before the upstream is called, in one trip.
-- needs: branch
-- prolongs: whole
-- KEYS  partition, conversation, branches, index, previous response (if it goes on from one)
-- ARGV  1 owner  2 source ('conversation', 'response' or 'none')  3 conversation id ('' = none)  4 branch: that it
--       continues, or that is forked ('' = the active one, or the one that has the target)
--       5 lock token: the response's id, a slash, a secret ('' = only look)  6 lease ms  7 retention s  8 a chain whose
--       items the caller holds ('' = none)  9 edition of the partition that they are of
--       10 bytes after which no more of the history is read
--       11 fork point ('' = no fork)  12 target  13 new branch's name ('' = it will become MAIN)  14 ms for which what a
--       fork inherits is kept from being freed
--       15 number of ids, item ids…, number of call ids, call ids that are answered…
--   From 11 on there is nothing where there is no fork and no id.
-- Returns {'ok', history, chain, pending, branch, facts, known, calls, line, lock, anchor, model, edition, is_rest,
--   watched, left}
--   history: a list of items for each span, tombstones included; chain: the same as a closed chain; pending: call ids
--   that wait for an output, joined with CALL_BREAK; branch: its name; facts: {project_id, referrer}, of a response also the id of the conversation that lives beside it;
--   known: for each id '' or its stored bytes with '=' before them, '<' when the history has it already;
--   calls: for each call id 1 when the partition knows that call, else 0; line: the branch that it continues, or that
--   is forked (-1: none); lock: which lock was taken, '' for none; anchor: id of the last inherited item or '';
--   model: of the answer that a fork replaces, or ''; edition: of the partition, '' for none; is_rest: 1 if the
--   history is only what lies behind the chain that the caller holds, its last item before it, else 0;
--   watched: 1 if a lock was taken and somebody watches the conversation; left: what has not been read of the chain,
--   which goes on in the last list of the history (read_history), most often ''
-- or {'conversation_not_found'}, {'branch_not_found', name}, {'response_not_found'}, {'response_unfinished'},
-- {'locked', ms left}, or what fork_branch refuses.
-- Takes a lock (conversations only): the branch's; of a fork its new name's, or MAIN's where it will become MAIN.
-- Nothing else is written unless a response nears its expiry. The same token may call again and finds its own lock.
-- Without a token no lock is taken or minded, and nothing is written.
-- Numbers that are only calculated with stay the text that they came as; Lua takes that too.

local conversation_key, branches_key, index_key, response_key = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local owner, source, conversation_id, branch_name = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local token, lease_ms, retention, held, edition = ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local most_bytes, point, target, new_name, pin_ms = tonumber(ARGV[10]), ARGV[11] or '', ARGV[12], ARGV[13], ARGV[14]
local ids_at = 15

local looks = token == ''
local mine = owned(owner)
local chain, pending, branch, facts, lock = {}, '', '', {}, ''
local line, anchor, model, watched = -1, '', '', 0

-- Takes a lock or returns the refusal. `own`: the line that notes who took it.
local function take_lock(name, own)
  if looks then
    return nil
  end
  local key = BASE .. 'lock:' .. name
  local marks = redis.call('MGET', key, BASE .. 'watched')
  local holder = marks[1]
  watched = marks[2] and 1 or 0
  if holder and holder ~= token then
    return { 'locked', redis.call('PTTL', key) }
  end
  if not holder then
    redis.call('SET', key, token, 'PX', lease_ms)
    if own then
      redis.call('HSET', branch_key(own), 'taken_by', token)
    end
  end
  lock = name
end

local refusal
if source == 'conversation' then
  if not mine or not conversation_lives(conversation_key, conversation_id) then
    return { 'conversation_not_found' }
  end
  local fork
  fork, refusal = resolve_fork(conversation_key, branches_key, index_key, branch_name, point == '' and 'tip' or point,
    target)
  if not fork then
    return refusal
  end
  chain, pending, line, model = fork.base, format_pending(fork.pending), fork.line or -1, fork.model
  if point == '' then
    branch = redis.call('HGET', branch_key(line), 'name')
    refusal = take_lock(tostring(line), line)
  else
    branch = string.lower(new_name) == 'main' and 'MAIN' or new_name
    if branch ~= '' and redis.call('ZSCORE', branches_key, branch) then
      return { 'branch_exists', branch }
    end
    if branch ~= '' then
      refusal = take_lock('=' .. branch)
    else
      branch = 'MAIN'
      local main = tonumber(redis.call('ZSCORE', branches_key, 'MAIN'))
      refusal = take_lock(tostring(main), main)
    end
    anchor = item_id(last_item(chain) or '') or ''
  end
  if refusal then
    return refusal
  end
  if point ~= '' and not looks then
    local _, milliseconds = now()
    for segment, to in pairs(reach_of(chain)) do
      note_reach(segment, to, milliseconds + pin_ms)
    end
  end
  facts = redis.call('HMGET', conversation_key, 'project_id', 'referrer')
  facts = { facts[1] or '', facts[2] or '' }
elseif source == 'response' then
  local fields = mine and redis.call('HMGET', response_key, 'snapshot', 'pending', 'status')
  if not fields or not fields[1] then
    return { 'response_not_found' }
  end
  if is_unfinished(fields[3]) then
    return { 'response_unfinished' }
  end
  chain, pending = parse_chain(fields[1]), fields[2] or ''
  local lives = is_kept() and redis.call('HMGET', conversation_key, 'project_id', 'referrer', 'id', 'deleted_at') or {}
  if lives[3] and not lives[4] then
    facts = { lives[1] or '', lives[2] or '', lives[3] }
  end
  if not looks and redis.call('TTL', response_key) < retention / 2 then
    extend(response_key, retention)
    slide_expiry(chain, index_key, retention)
    -- a failed turn's own items are not in its snapshot
    for _, own in ipairs(redis.call('HMGET', response_key, 'context', 'output')) do
      slide_expiry(parse_chain(own), index_key, retention)
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

-- What is stored of an item, and whether the history has it.
local function look_up(id)
  local bytes, _, _, places = load_item(index_key, id)
  local seen = bytes and bytes_in_chain(places)
  if seen then
    return '<' .. seen
  elseif not bytes or is_hidden(conversation_key, places) then
    return ''
  end
  return '=' .. bytes
end

local known, calls = {}, {}
if ARGV[ids_at] then
  local first_id, last_id, calls_at = list_at(ids_at, 1)
  for i = first_id, last_id do
    known[#known + 1] = mine and look_up(ARGV[i]) or ''
  end
  local first_call, last_call = list_at(calls_at, 1)
  for i = first_call, last_call do
    calls[#calls + 1] = mine and redis.call('HEXISTS', index_key, 'call:' .. ARGV[i]) or 0
  end
end

-- a call whose item was deleted no longer waits
local waiting = {}
for call_id in string.gmatch(pending, CALL_ID) do
  if redis.call('HEXISTS', index_key, 'call:' .. call_id) == 1 then
    waiting[#waiting + 1] = call_id
  end
end

local text = format_chain(chain)
local current = mine and redis.call('HGET', PARTITION, 'edition') or ''
local open, to = string.match(text, '^(.*:)(%d+)$')
local start, past = string.match(held, '^(.*:)(%d+)$')
local is_rest = open and open == start and current == edition and tonumber(past) <= tonumber(to)
if is_rest then
  chain = { { chain[#chain][1], past - 1, chain[#chain][3] } }
end
local spans, left = read_spans(chain, most_bytes)
return { 'ok', spans, text, table.concat(waiting, CALL_BREAK), branch, facts, known, calls, line, lock, anchor, model,
  current, is_rest and 1 or 0, watched, left }
