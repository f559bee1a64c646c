-- commit_turn: the plain case: new items at the tip of a branch or of a chain, and their response.
-- needs: layout
--
-- Left to the general case: forks and failed turns; a turn that leaves no response, or one that was accepted before it
-- ran; items that came with an id; what is no tip any more, or has other calls waiting; a lock that was lost; chains out
-- of a conversation; a conversation whose life is to be prolonged; items in pieces, and chains where there are any;
-- repeats; every refusal.

local input_count = tonumber(ARGV[inputs_at])
local outputs_at = inputs_at + 1 + input_count * FIELDS
local count = input_count + ARGV[outputs_at]
local on_branch, on_chain = mode == 'append' and lock ~= '', mode == 'chain' and lock == ''
if (on_branch or on_chain) and stored and job_token == '' and count > 0 and count <= CHUNK / FIELDS then
  local call = redis.call
  -- Segments that the response will read, each once, and how far; the one that is written among them.
  local segments, reach = {}, {}
  local segment = on_branch and line or string.match(base_chain, '(%d+):%d+:%d+$')
  local fields = { 'owner', 'kept', 'responses', 'edition', 'next_segment' }
  local reach_at = on_branch and 4 or 6
  fields[6] = on_chain and 'pieces' or nil
  for one, _, to in string.gmatch(base_chain, SPAN) do
    if not reach[one] then
      segments[#segments + 1] = one
      fields[reach_at + #segments] = 'reach:' .. one
    end
    reach[one] = math.max(reach[one] or 0, tonumber(to))
  end
  if on_branch and not reach[segment] then
    segments[#segments + 1] = segment
    fields[reach_at + #segments] = 'reach:' .. segment
  end
  local head, left = call('HMGET', PARTITION, unpack(fields)), call('PTTL', PARTITION)

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
    local branch = call('HMGET', branch_key, 'chain', 'pending', 'fence', 'taken_by')
    -- who has taken the branch last holds its lock, or has lost it to nobody; it was taken in this very conversation
    local is_mine = branch[3] == fence and branch[4] == token
    if is_settled and branch[1] and branch[2] == base_pending and is_mine then
      local inherited = string.match(branch[1], '^(.-),?%d+:0:$')
      local length = call('LLEN', BASE .. 'segment:' .. segment)
      open, ends[0] = branch[1], string.format('%d', length)
      -- a repeat finds more items than it began with
      if inherited and base_chain == (length > 0 and open .. ends[0] or inherited) then
        from = length
      end
    end
  elseif on_chain and not head[2] and not head[6] and (head[1] == owner or left == -2) then
    local are_there, unused, lengths = true, 0, {}
    -- Keys that must not be there.
    local strangers = { response_key, marker_key, conversation_key, branches_key }
    for _, one in ipairs(segments) do
      strangers[#strangers + 1], strangers[#strangers + 2] = BASE .. 'branch:' .. one, BASE .. 'holders:' .. one
      lengths[one] = call('LLEN', BASE .. 'segment:' .. one)
      are_there = are_there and lengths[one] >= reach[one]
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
    local time = call('TIME')
    local milliseconds = time[1] * 1000 + math.floor(time[2] / 1000)
    local middle, past, segment_key = ends[input_count], ends[count], BASE .. 'segment:' .. segment
    call('RPUSH', segment_key, unpack(values))
    call('HSET', index_key, unpack(places))
    call('HSET', response_key, 'status', status, 'body', body, 'snapshot', open .. past,
      'context', input_count > 0 and open .. middle or base_chain,
      'output', count > input_count and segment .. ':' .. middle .. ':' .. past or '',
      'pending', pending, 'created_at', time[1])
    call('EXPIRE', response_key, retention)
    local facts = { 'HSET', PARTITION, 'responses', (head[3] or 0) + 1 }
    if not head[4] then
      facts[5], facts[6] = 'edition', response_id
    end
    if on_branch then
      reach[segment] = from + count
      for i, one in ipairs(segments) do
        local until_ms, to = milliseconds + response_life, reach[one]
        local old_until, old_to = string.match(head[reach_at + i] or '', '^(%d+):(%d+)$')
        if old_until and tonumber(old_until) > milliseconds then
          until_ms, to = math.max(until_ms, tonumber(old_until)), math.max(to, tonumber(old_to))
        end
        facts[#facts + 1], facts[#facts + 2] = 'reach:' .. one, string.format('%d:%d', until_ms, to)
      end
      call('ZADD', BASE .. 'journal', line * SEGMENT_SPACE + from + count,
        response_id .. FIELD_BREAK .. model .. FIELD_BREAK .. pending)
      if pending == base_pending then
        call('HSET', branch_key, 'updated_at', milliseconds)
      else
        call('HSET', branch_key, 'pending', pending, 'updated_at', milliseconds)
      end
      call('HSET', conversation_key, 'updated_at', milliseconds)
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
      local lasting, lefts = { PARTITION, segment_key, index_key }, { left, segment_left }
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
          call('PEXPIREAT', key, string.format('%.0f', milliseconds + left + GRACE))
        end
      end
    end
    return { 'ok', milliseconds, {}, '', on_branch and segment .. ':' .. ends[0] .. ':' .. past or '' }
  end
end
