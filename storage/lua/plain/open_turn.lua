-- open_turn: the plain case: the next turn of a branch or after a response, whose input names no stored item.
-- needs: layout
--
-- Left to the general case: forks, looking without a lock, a conversation or a response whose life is to be prolonged,
-- and every refusal but a lock that another turn holds.

if token ~= '' and point == '' and (ARGV[ids_at] or '0') == '0' and source ~= 'none' then
  local call = redis.call
  local head, left = call('HMGET', PARTITION, 'owner', 'kept', 'edition'), call('PTTL', PARTITION)
  local mine, kept = head[1] == owner, head[2]
  local is_settled = left >= CONVERSATION_SECONDS * 1000
  if CONVERSATION_SECONDS == 0 then
    is_settled = left == -1
  end
  -- open and past: the chain that the caller holds, if it still says what is there.
  local open, past = string.match(head[3] == edition and held or '', '^(.*:)(%d+)$')
  -- rest: the first of what lies behind the chain that the caller holds, its last item before it.
  local chain, pending, name, line, rest
  local facts, lock, lock_key = {}, '', nil
  if source == 'conversation' and mine and kept and is_settled then
    local found = call('HMGET', conversation_key, 'id', 'active_branch', 'project_id', 'referrer')
    name = branch_name == '' and found[2] or string.lower(branch_name) == 'main' and 'MAIN' or branch_name
    line = found[1] == conversation_id and call('ZSCORE', branches_key, name)
    if line then
      local branch = call('HMGET', BASE .. 'branch:' .. line, 'chain', 'pending')
      rest = branch[1] == open and call('LRANGE', BASE .. 'segment:' .. line, past - 1, past + STEP - 2)
      if rest and #rest == STEP then
        chain = open .. call('LLEN', BASE .. 'segment:' .. line)
      elseif rest and #rest > 0 then
        chain = #rest == 1 and held or open .. string.format('%d', past - 1 + #rest)
      else
        local inherited, from = string.match(branch[1], '^(.-),?%d+:(%d+):$')
        local length = call('LLEN', BASE .. 'segment:' .. line)
        chain, rest = length > tonumber(from) and branch[1] .. length or inherited, nil
      end
      pending, facts, lock, lock_key = branch[2], { found[3] or '', found[4] or '' }, line, BASE .. 'lock:' .. line
    end
  elseif source == 'response' and mine and (is_settled or not kept) then
    local found = call('HMGET', response_key, 'snapshot', 'pending', 'status')
    local is_over = found[3] ~= 'queued' and found[3] ~= 'in_progress'
    if found[1] and is_over and call('TTL', response_key) >= retention / 2 then
      chain, pending, name, line = found[1], found[2] or '', '', -1
      local lives = kept and call('HMGET', conversation_key, 'project_id', 'referrer', 'id', 'deleted_at') or {}
      if lives[3] and not lives[4] then
        facts = { lives[1] or '', lives[2] or '', lives[3] }
      end
    end
  end
  -- whether anybody watches costs nothing more
  local marks = lock_key and call('MGET', lock_key, BASE .. 'watched') or {}
  local holder = marks[1]
  if holder and holder ~= token then
    return { 'locked', call('PTTL', lock_key) }
  end
  if chain then
    local calls, waiting = {}, {}
    for i = ids_at + 2, ARGV[ids_at] and ids_at + 1 + ARGV[ids_at + 1] or 0 do
      calls[#calls + 1] = call('HEXISTS', index_key, 'call:' .. ARGV[i])
    end
    for call_id in string.gmatch(pending, CALL_ID) do
      if call('HEXISTS', index_key, 'call:' .. call_id) == 1 then
        waiting[#waiting + 1] = call_id
      end
    end
    if not rest and open then
      local beginning, to = string.match(chain, '^(.*:)(%d+)$')
      if beginning == open and tonumber(past) <= tonumber(to) then
        rest = call('LRANGE', BASE .. 'segment:' .. string.match(open, '(%d+):%d+:$'), past - 1,
          math.min(past + STEP - 1, to) - 1)
      end
    end
    -- wanted: what is still to be read, as spans; room: for bytes of it; left: what is not read now (read_spans).
    local wanted, room, left, history = chain, most_bytes, '', { rest }
    if rest then
      local segment, to = string.match(chain, '(%d+):%d+:(%d+)$')
      -- as many as there may be at once: more may lie behind them
      wanted = #rest == STEP and string.format('%s:%d:%s', segment, past - 1, to) or ''
      history[1] = #rest < STEP and rest or nil
    end
    local step = STEP
    for segment, from, to, behind in string.gmatch(wanted, SPAN .. '()') do
      local items, at = {}, tonumber(from)
      history[#history + 1] = items
      while at - to < 0 and room > 0 do
        local some, before = call('LRANGE', BASE .. 'segment:' .. segment, at, math.min(at + step, to) - 1), room
        for _, bytes in ipairs(some) do
          items[#items + 1] = bytes
          room = room - #bytes
        end
        step = before - room < most_bytes / SHORT and math.min(step * 2, LONGEST_STEP) or STEP
        at = #some == 0 and to or at + #some
      end
      if at - to < 0 then
        left = string.format('%s:%d:%s', segment, at, to) .. string.sub(wanted, behind)
        break
      end
    end
    -- Everything has been read that will be written: from here on the script only writes.
    if lock_key and not holder then
      call('SET', lock_key, token, 'PX', lease_ms)
      call('HSET', BASE .. 'branch:' .. line, 'taken_by', token)
    end
    return { 'ok', history, chain, table.concat(waiting, CALL_BREAK), name, facts, {}, calls, tonumber(line), lock, '', '',
      head[3] or '', rest and 1 or 0, marks[2] and 1 or 0, left }
  end
end
