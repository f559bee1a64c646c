-- commit_turn: the plain case: new items at the tip of a branch or of a chain, and their response.
-- needs: layout
--
-- Left to the general case: forks and failed turns; a turn that leaves no response, or one that was accepted before it
-- ran; items that came with an id; what is no tip any more, or has other calls waiting; a lock that was lost; chains out
-- of a conversation; a conversation whose life is to be prolonged; repeats; every refusal.

local input_count = tonumber(ARGV[inputs_at])
local outputs_at = inputs_at + 1 + input_count * FIELDS
local count = input_count + ARGV[outputs_at]
local on_branch, on_chain = mode == 'append' and lock ~= '', mode == 'chain' and lock == ''
local is_plain = stored and not ARGV[outputs_at + 1 + (count - input_count) * FIELDS]
if (on_branch or on_chain) and is_plain and count > 0 and count <= CHUNK / FIELDS then
  local call = redis.call
  -- Segments that the response will read, each once, and how far; the one that is written among them.
  local segments, reach = {}, {}
  local segment = on_branch and line or string.match(base_chain, '(%d+):%d+:%d+$')
  local fields = { 'owner', 'kept', 'responses', 'edition', on_chain and 'next_segment' or nil }
  local reach_at = on_branch and 4 or 5
  for one, _, to in string.gmatch(base_chain, SPAN) do
    if not reach[one] then
      segments[#segments + 1] = one
      fields[reach_at + #segments] = 'reach:' .. one
    end
    reach[one] = reach[one] and reach[one] - to >= 0 and reach[one] or to
  end
  if on_branch and not reach[segment] then
    segments[#segments + 1] = segment
    fields[reach_at + #segments] = 'reach:' .. segment
  end
  -- Keys that must not be there. A chain that begins finds nothing in its partition at all.
  local strangers = { response_key, marker_key, conversation_key, branches_key }
  local begins = on_chain and base_chain == '' and call('EXISTS', PARTITION, index_key, BASE .. 'segment:0',
    BASE .. 'branch:0', BASE .. 'holders:0', unpack(strangers)) == 0
  local head, left = {}, -2
  if not begins then
    head = call('HMGET', PARTITION, unpack(fields))
    -- what was settled when its branch was locked is so still
    left = on_branch and CONVERSATION_SECONDS == 0 and -1 or call('PTTL', PARTITION)
  end

  -- open: the chain that the items are added to, without its end. from: offset of the first of them, if plain. ends[n]:
  -- the offset behind the first n of them, as text; to make text of a number, or a number of text, costs as much as a
  -- third of a command, so each is made once.
  local open, from
  local ends = {}
  local response_life, segment_left = retention * 1000, -2
  local branch_key, lock_key = BASE .. 'branch:' .. (segment or ''), BASE .. 'lock:' .. lock
  if on_branch and head[1] == owner and head[2] then
    local is_settled = left == -1
    if CONVERSATION_SECONDS > 0 then
      is_settled = left >= math.max(CONVERSATION_SECONDS * 1000, response_life)
    end
    local branch = call('HMGET', branch_key, 'chain', 'pending', 'taken_by')
    -- who has taken the branch last holds its lock, or has lost it to nobody; it was taken in this very conversation
    local is_mine = branch[3] == token
    if is_settled and branch[1] and branch[2] == base_pending and is_mine then
      local inherited = string.match(branch[1], '^(.-),?%d+:0:$')
      local length = call('LLEN', BASE .. 'segment:' .. segment)
      open, ends[0] = branch[1], string.format('%d', length)
      -- a repeat finds more items than it began with
      if inherited and base_chain == (length > 0 and open .. ends[0] or inherited) then
        from = length
      end
    end
  elseif begins then
    open, from, segment, ends[0] = '0:0:', 0, '0', '0'
  elseif on_chain and not head[2] and (head[1] == owner or left == -2) then
    local are_there, unused, lengths = true, 0, {}
    for _, one in ipairs(segments) do
      strangers[#strangers + 1], strangers[#strangers + 2] = BASE .. 'branch:' .. one, BASE .. 'holders:' .. one
      lengths[one] = call('LLEN', BASE .. 'segment:' .. one)
      are_there = are_there and lengths[one] - reach[one] >= 0
      unused = math.max(unused, one + 1)
    end
    local next_segment = head[5] or '0'
    open = string.match(base_chain, '^(.*:)%d+$') or next_segment .. ':0:'
    segment = segment or next_segment
    local length = lengths[segment] or call('LLEN', BASE .. 'segment:' .. segment)
    ends[0] = string.format('%d', length)
    segment_left = length > 0 and call('PTTL', BASE .. 'segment:' .. segment) or -2
    local is_tip = base_chain == (length > 0 and open .. ends[0] or '') and segment_left ~= -1
    if is_tip and are_there and tonumber(next_segment) >= unused then
      from = call('EXISTS', unpack(strangers)) == 0 and length
    end
  end

  -- The items, and the calls that wait after them: nil while they are the same as before.
  local values, places, waiting = {}, {}, nil
  local at = inputs_at + 1
  while from and #values < count do
    at = at == outputs_at and at + 1 or at
    local origin, id, bytes, mark = unpack(ARGV, at, at + FIELDS - 1)
    places[#places + 1], places[#places + 2] = id, segment .. ':' .. ends[#values]
    if mark ~= '' then
      local sign, call_id = string.sub(mark, 1, 1), string.sub(mark, 2)
      places[#places] = places[#places] .. ' ' .. mark
      if sign == '+' or sign == '~' then
        places[#places + 1], places[#places + 2] = 'call:' .. call_id, id
      end
      if not waiting then
        waiting = {}
        for other in string.gmatch(base_pending, CALL_ID) do
          waiting[other] = true
        end
      end
      if sign == '+' or sign == '-' then
        waiting[call_id] = sign == '+' or nil
      end
    end
    values[#values + 1] = bytes
    ends[#values] = string.format('%d', from + #values)
    from = origin == 'm' and from
    at = at + FIELDS
  end

  if from then
    -- Everything is checked: from here on the script only writes.
    local pending = base_pending
    if waiting then
      local sorted = {}
      for call_id in pairs(waiting) do
        sorted[#sorted + 1] = call_id
      end
      table.sort(sorted)
      pending = table.concat(sorted, CALL_BREAK)
    end
    local middle, past, segment_key = ends[input_count], ends[count], BASE .. 'segment:' .. segment
    call('RPUSH', segment_key, unpack(values))
    call('HSET', index_key, unpack(places))
    call('HSET', response_key, 'status', status, 'snapshot', open .. past,
      'context', input_count > 0 and open .. middle or base_chain,
      'output', count > input_count and segment .. ':' .. middle .. ':' .. past or '',
      'pending', pending, 'created_at', time[1], 'body', body)
    call('EXPIRE', response_key, retention)
    local facts = { 'HSET', PARTITION, 'responses', head[3] and string.format('%d', head[3] + 1) or '1' }
    if not head[4] then
      facts[5], facts[6] = 'edition', response_id
    end
    if on_branch then
      reach[segment] = past
      local until_ms = string.format('%d', time[1] + retention) .. string.sub(clock, -3)
      for i, one in ipairs(segments) do
        local longest, to = until_ms, reach[one]
        local old_until, old_to = string.match(head[reach_at + i] or '', '^(%d+):(%d+)$')
        -- of as many digits the later one is the greater text
        if old_until and (#old_until > #clock or old_until > clock) then
          longest = (#old_until > #until_ms or old_until > until_ms) and old_until or until_ms
          to = old_to - to > 0 and old_to or to
        end
        facts[#facts + 1], facts[#facts + 2] = 'reach:' .. one, longest .. ':' .. to
      end
      call('ZADD', BASE .. 'journal', line == '0' and past or string.format('%.0f', line * SEGMENT_SPACE + past),
        response_id .. FIELD_BREAK .. model .. FIELD_BREAK .. pending)
      if pending == base_pending then
        call('HSET', branch_key, 'updated_at', clock)
      else
        call('HSET', branch_key, 'pending', pending, 'updated_at', clock)
      end
      call('HSET', conversation_key, 'updated_at', clock)
      call('DEL', lock_key)
    else
      facts[#facts + 1], facts[#facts + 2] = 'owner', owner
      if #segments == 0 then
        facts[#facts + 1], facts[#facts + 2] = 'next_segment', segment + 1
      end
    end
    call(unpack(facts))
    -- Times to live: of a conversation that expires what is new gets what is left, outside of one all is renewed.
    if on_chain then
      local lasting, lefts = { PARTITION, segment_key, index_key }, { left, segment_left, begins and -2 or nil }
      for _, one in ipairs(segments) do
        lasting[#lasting + 1] = one ~= segment and BASE .. 'segment:' .. one or nil
      end
      for i, key in ipairs(lasting) do
        if (lefts[i] or call('PTTL', key)) < response_life then
          call('EXPIRE', key, retention)
        end
      end
    elseif CONVERSATION_SECONDS > 0 then
      for _, key in ipairs({ segment_key, index_key, BASE .. 'journal' }) do
        if call('PTTL', key) == -1 then
          call('PEXPIREAT', key, string.format('%.0f', clock + left + GRACE))
        end
      end
    end
    return { 'ok', tonumber(clock), {}, '', on_branch and segment .. ':' .. ends[0] .. ':' .. past or '' }
  end
end
