-- branch: branches: their lines and names, and forks.
-- needs: journal, response
--
-- What was staged for a branch that had items lies in a segment that is no branch's own; such a branch has the numbers of
-- those segments as `staged`.

-- `id`, `type` and a message's `role` begin every stored item, in this order.
local MESSAGE = '^{"id":"[^"]*","type":"message","role":"([^"]*)"'

local function new_segment()
  return redis.call('HINCRBY', PARTITION, 'next_segment', 1) - 1
end

-- Notes that a branch reads another's segment up to `to`; what a branch reads never expires.
local function hold(line, segment, to)
  local known = redis.call('ZSCORE', holders_key(segment), line)
  if not known or tonumber(known) < to then
    redis.call('ZADD', holders_key(segment), to, line)
  end
  redis.call('PERSIST', segment_key(segment))
  pieces_of(segment, function(key) redis.call('PERSIST', key) end)
end

-- Calls `visit(bytes, segment, offset)` for the live items of a closed chain from its end backwards, until it
-- returns something, which is returned.
local function walk_back(chain, visit)
  for i = #chain, 1, -1 do
    local segment, from, high = chain[i][1], chain[i][2], chain[i][3] - 1
    while high >= from do
      local low = math.max(from, high - 19)
      local items = redis.call('LRANGE', segment_key(segment), low, high)
      for j = #items, 1, -1 do
        local found = items[j] ~= '' and visit(items[j], segment, low + j - 1)
        if found then
          return found
        end
      end
      high = low - 1
    end
  end
end

local function last_item(chain)
  return walk_back(chain, function(bytes) return bytes end)
end

-- Where an item lies on a closed chain: number of the span and offset of its last occurrence, in reading order (from
-- the end on if `descending`); nil when it does not.
local function find_on_chain(chain, places, descending)
  for n = 1, #chain do
    local i = descending and n or #chain - n + 1
    local best
    for _, place in ipairs(places) do
      if chain_holds({ chain[i] }, place[1], place[2]) and (not best or (place[2] > best) ~= (descending == true)) then
        best = place[2]
      end
    end
    if best then
      return i, best
    end
  end
end

-- The part of a closed chain after an offset of its span number i, put behind `head`.
local function add_rest(head, chain, i, offset)
  if offset + 1 < chain[i][3] then
    head[#head + 1] = { chain[i][1], offset + 1, chain[i][3] }
  end
  for j = i + 1, #chain do
    head[#head + 1] = chain[j]
  end
  return head
end

-- Whether a closed chain begins with another one.
local function begins_with(chain, base)
  for i, span in ipairs(base) do
    local own = chain[i]
    local ends = own and (own[3] == span[3] or i == #base and own[3] > span[3])
    if not ends or own[1] ~= span[1] or own[2] ~= span[2] then
      return false
    end
  end
  return true
end

local function chain_of(line)
  local text = redis.call('HGET', branch_key(line), 'chain')
  return text and close_chain(parse_chain(text))
end

-- A branch of a living conversation of this owner: {line, name}; nil and the refusal when there is none.
local function find_branch(owner, conversation_key, conversation_id, branches_key, name)
  if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
    return nil, { 'conversation_not_found' }
  end
  local line, found = line_named(conversation_key, branches_key, name)
  if not line then
    return nil, { 'branch_not_found', found }
  end
  return { line = line, name = found }
end

-- The branch on which an item is looked for: the active one, MAIN, then any. Returns its line and closed chain.
local function branch_with(conversation_key, branches_key, places)
  for _, name in ipairs({ '', 'MAIN' }) do
    local line = line_named(conversation_key, branches_key, name)
    local chain = line and chain_of(line)
    if chain and any_in_chain(chain, places) then
      return line, chain
    end
  end
  for _, place in ipairs(places) do
    local chain = chain_of(place[1])
    if chain then
      return place[1], chain
    end
    for _, line in ipairs(redis.call('ZREVRANGEBYSCORE', holders_key(place[1]), '+inf', '(' .. place[2])) do
      chain = chain_of(line)
      if chain and chain_holds(chain, place[1], place[2]) then
        return tonumber(line), chain
      end
    end
  end
end

local function is_mixed(line)
  return redis.call('HEXISTS', branch_key(line), 'mixed') == 1
end

-- Whether a branch that starts with a closed chain is `mixed`: not if a branch that is not begins with it.
local function starts_mixed(base, line)
  local chain = line and chain_of(line)
  if #base == 0 or (chain and begins_with(chain, base) and not is_mixed(line)) then
    return false
  end
  return true
end

-- The branch that wrote what lies at a place, nil if none did that is there. What was staged lies in no branch's own
-- segment. Who reads a segment that is younger has it from another branch, and is mixed, or it was staged for it; a fork
-- is younger than all that it inherits.
local function writer_of(segment, offset)
  if redis.call('EXISTS', branch_key(segment)) == 1 then
    return segment
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', holders_key(segment), '(' .. offset, '+inf')) do
    local line = tonumber(member)
    local fields = line < segment and redis.call('HMGET', branch_key(line), 'mixed', 'staged') or { 1 }
    if not fields[1] or string.find(',' .. (fields[2] or '') .. ',', ',' .. segment .. ',', 1, true) then
      return line
    end
  end
end

-- What a fork inherits. point: see records.ForkPoint. Returns {line, base, pending, model, mixed}: the line of
-- the branch that is forked (nil for a response outside of all), the closed chain that the new line starts with, a set
-- of call ids, the model of the answer that is replaced, whether the new line is `mixed`; or nil and a refusal as the
-- scripts return it.
local function resolve_fork(conversation_key, branches_key, index_key, source, point, target)
  local line, chain
  if source ~= '' or point == 'tip' then
    local name
    line, name = line_named(conversation_key, branches_key, source)
    if not line then
      return nil, { 'branch_not_found', name }
    end
    chain = chain_of(line)
    if point == 'tip' then
      local pending = parse_pending(redis.call('HGET', branch_key(line), 'pending'))
      return { line = line, base = chain, pending = pending, model = '', mixed = is_mixed(line) }
    end
  end
  if point == 'at' then
    local fields = redis.call('HMGET', BASE .. 'response:' .. target, 'snapshot', 'pending', 'status', 'line')
    if is_unfinished(fields[3]) then
      return nil, { 'response_unfinished', target }
    end
    if fields[1] then
      local base = parse_chain(fields[1])
      local last = base[#base]
      -- earlier versions noted the line beside the response of what was staged
      local noted = fields[4] and redis.call('EXISTS', branch_key(fields[4])) == 1 and tonumber(fields[4])
      line = last and writer_of(last[1], last[3] - 1) or noted or line
      return { line = line, base = base, pending = parse_pending(fields[2]), model = '', mixed = starts_mixed(base, line) }
    end
  end
  local bytes, _, _, places = load_item(index_key, target)
  if bytes and not chain then
    line, chain = branch_with(conversation_key, branches_key, places)
  end
  local i, offset
  if bytes and chain then
    i, offset = find_on_chain(chain, places)
  end
  if not i then
    return nil, { 'item_not_found', target }
  end
  local role = string.match(bytes, MESSAGE)
  local fork = { line = line, model = model_at(chain, i, offset), mixed = is_mixed(line) }
  if point == 'after' or point == 'at' then
    fork.base = cut(chain, i, offset + 1)
  elseif point == 'before' or point == 'edit' then
    if point == 'edit' and role ~= 'user' then
      return nil, { 'not_a_user_message', target }
    end
    fork.base = cut(chain, i, offset)
  elseif point == 'without' then
    fork.base = add_rest(cut(chain, i, offset), chain, i, offset)
    local _, mark = places_of(index_key, target)
    if mark == '' then
      fork.pending = parse_pending(redis.call('HGET', branch_key(line), 'pending'))
    else
      fork.mixed = true
    end
  else
    if role ~= 'user' and role ~= 'assistant' then
      return nil, { 'not_a_message', target }
    end
    local head = cut(chain, i, offset + 1)
    local at = walk_back(head, function(item, segment, found_offset)
      return string.match(item, MESSAGE) == 'user' and { segment, found_offset }
    end)
    if not at then
      return nil, { 'no_user_message', target }
    end
    i, offset = find_on_chain(head, { at })
    fork.base = cut(head, i, offset + 1)
  end
  fork.pending = fork.pending or pending_at(fork.base, index_key, fork.mixed)
  return fork
end

-- Whether a name can be given to a branch: no branch has it, and no running turn will make one of that name.
local function name_is_free(branches_key, name)
  return not redis.call('ZSCORE', branches_key, name) and redis.call('EXISTS', BASE .. 'lock:=' .. name) == 0
end

local function name_line(branches_key, name, line)
  redis.call('ZADD', branches_key, line, name)
  redis.call('HSET', branch_key(line), 'name', name)
end

-- Makes a line that starts with a closed chain; mixed: see starts_mixed. Its name is given by name_line or promote.
-- Returns it.
local function create_line(base, pending, parent, anchor, description, mixed)
  local line = new_segment()
  for segment, to in pairs(reach_of(base)) do
    hold(line, segment, to)
  end
  local seconds, milliseconds = now()
  local text = format_chain(base)
  local fields = { 'chain', (text == '' and '' or text .. ',') .. line .. ':0:', 'pending', format_pending(pending),
    'created_at', milliseconds, 'updated_at', milliseconds, 'forked_at', seconds }
  mixed = mixed and 1 or ''
  for name, value in pairs({ parent = parent or '', forked_from = anchor, description = description, mixed = mixed }) do
    if value ~= '' then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  redis.call('HSET', branch_key(line), unpack(fields))
  return line
end

-- Makes a line MAIN and the active branch; the old MAIN becomes `backup`, whose name is returned.
local function promote(conversation_key, branches_key, line, backup)
  while not name_is_free(branches_key, backup) do
    backup = backup .. 'x'
  end
  name_line(branches_key, backup, tonumber(redis.call('ZSCORE', branches_key, 'MAIN')))
  name_line(branches_key, 'MAIN', line)
  redis.call('HSET', conversation_key, 'active_branch', 'MAIN')
  return backup
end

-- How many items a closed chain has.
local function count_items(chain)
  local count = 0
  for _, span in ipairs(chain) do
    count = count + span[3] - span[2]
      - redis.call('ZCOUNT', BASE .. 'tombstones', position(span[1], span[2]), '(' .. position(span[1], span[3]))
  end
  return count
end

-- A branch as the caller reads it: {name, items, created_at ms, updated_at ms, 1 if active, description, parent's name,
-- forked_at s, forked_from}, '' where there is nothing.
local function describe(conversation_key, line)
  local key = branch_key(line)
  local facts = redis.call('HMGET', key, 'name', 'created_at', 'updated_at', 'description', 'parent', 'forked_at',
    'forked_from', 'chain')
  local parent = facts[5] and redis.call('HGET', branch_key(facts[5]), 'name')
  local active = redis.call('HGET', conversation_key, 'active_branch') == facts[1]
  return { facts[1], count_items(close_chain(parse_chain(facts[8]))), facts[2], facts[3], active and 1 or 0,
    facts[4] or '', parent or '', facts[6] or '', facts[7] or '' }
end
