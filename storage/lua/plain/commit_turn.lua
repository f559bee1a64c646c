-- commit_turn: the plain case: new items at the tip of a branch or of a chain, and their response.
-- needs: layout
--
-- Left to the general case: forks and failed turns; a turn that leaves no response, or one that was accepted before it
-- ran; items that came with an id; what is no tip any more, or has other calls waiting; a lock that was lost; chains out
-- of a conversation; a conversation whose life is to be prolonged; repeats; every refusal.

local input_count = tonumber(ARGV[inputs_at])
local outputs_at = inputs_at + 1 + input_count * FIELDS
local count = input_count + tonumber(ARGV[outputs_at])
local on_branch, on_chain = mode == 'append' and lock ~= '', mode == 'chain' and lock == ''
if (on_branch or on_chain) and stored and job_token == '' and count > 0 and count <= CHUNK / FIELDS then
  local call = redis.call
  -- Segments that the response will read, each once, and how far; the one that is written among them.
  local segments, reach = {}, {}
  local segment = on_branch and tostring(line) or string.match(base_chain, '(%d+):%d+:%d+$')
  local fields = { 'owner', 'kept', 'responses', 'next_segment', 'edition' }
  for one, _, to in string.gmatch(base_chain .. (on_branch and ',' .. segment .. ':0:0' or ''), SPAN) do
    if not reach[one] then
      segments[#segments + 1] = one
      fields[#fields + 1] = 'reach:' .. one
    end
    reach[one] = math.max(reach[one] or 0, tonumber(to))
  end
  local head, left = call('HMGET', PARTITION, unpack(fields)), call('PTTL', PARTITION)

  -- open: the chain that the items are added to, without its end. from: offset of the first of them, if plain.
  local open, from
  local response_life, segment_left = retention * 1000, -2
  local branch_key, lock_key = BASE .. 'branch:' .. (segment or ''), BASE .. 'lock:' .. lock
  -- Keys that must not be there.
  local strangers = { response_key, marker_key }
  if on_branch and head[1] == owner and head[2] then
    local is_settled = left == -1
    if CONVERSATION_SECONDS > 0 then
      is_settled = left >= math.max(CONVERSATION_SECONDS * 1000, response_life)
    end
    local facts = call('HMGET', conversation_key, 'id', 'deleted_at')
    local branch = call('HMGET', branch_key, 'chain', 'pending', 'fence', 'taken_by')
    local lives = facts[1] == conversation_id and not facts[2]
    -- who has taken the branch last holds its lock, or has lost it to nobody
    local is_mine = branch[3] == fence and branch[4] == token
    if is_settled and lives and branch[1] and branch[2] == base_pending and is_mine then
      local inherited, first = string.match(branch[1], '^(.-),?%d+:(%d+):$')
      local length = call('LLEN', BASE .. 'segment:' .. segment)
      open = branch[1]
      if base_chain == (length > tonumber(first) and open .. length or first == '0' and inherited) then
        from = call('EXISTS', unpack(strangers)) == 0 and length
      end
    end
  elseif on_chain and not head[2] and (head[1] == owner or left == -2) then
    local are_there, unused = true, 0
    strangers[3], strangers[4] = conversation_key, branches_key
    for _, one in ipairs(segments) do
      strangers[#strangers + 1], strangers[#strangers + 2] = BASE .. 'branch:' .. one, BASE .. 'holders:' .. one
      are_there = are_there and call('LLEN', BASE .. 'segment:' .. one) >= reach[one]
      unused = math.max(unused, one + 1)
    end
    local next_segment = head[4] or '0'
    open = string.match(base_chain, '^(.*:)%d+$') or next_segment .. ':0:'
    segment = segment or next_segment
    local length = call('LLEN', BASE .. 'segment:' .. segment)
    segment_left = length > 0 and call('PTTL', BASE .. 'segment:' .. segment) or -2
    local is_tip = base_chain == (length > 0 and open .. length or '') and segment_left ~= -1
    if is_tip and are_there and tonumber(next_segment) >= unused then
      from = call('EXISTS', unpack(strangers)) == 0 and length
    end
  end

  -- The items, and the calls that wait after them.
  local values, places, waiting = {}, {}, {}
  for call_id in string.gmatch(base_pending, CALL_ID) do
    waiting[call_id] = true
  end
  local at, offset = inputs_at + 1, from
  while from and #values < count do
    at = at == outputs_at and at + 1 or at
    local origin, id, bytes, mark = unpack(ARGV, at, at + FIELDS - 1)
    local sign, call_id = string.sub(mark, 1, 1), string.sub(mark, 2)
    values[#values + 1], places[#places + 1] = bytes, id
    places[#places + 1] = segment .. ':' .. offset .. (mark ~= '' and ' ' .. mark or '')
    if sign == '+' or sign == '~' then
      places[#places + 1], places[#places + 2] = 'call:' .. call_id, id
    end
    if sign == '+' or sign == '-' then
      waiting[call_id] = sign == '+' or nil
    end
    from = origin == 'm' and from
    at, offset = at + FIELDS, offset + 1
  end

  if from then
    -- Everything is checked: from here on the script only writes.
    local pending = {}
    for call_id in pairs(waiting) do
      pending[#pending + 1] = call_id
    end
    table.sort(pending)
    pending = table.concat(pending, CALL_BREAK)
    local time = call('TIME')
    local seconds = tonumber(time[1])
    local milliseconds = seconds * 1000 + math.floor(tonumber(time[2]) / 1000)
    local middle, segment_key = from + input_count, BASE .. 'segment:' .. segment
    call('RPUSH', segment_key, unpack(values))
    call('HSET', index_key, unpack(places))
    call('HSET', response_key, 'status', status, 'body', body, 'snapshot', open .. offset,
      'context', middle > from and open .. middle or base_chain,
      'output', offset > middle and segment .. ':' .. middle .. ':' .. offset or '',
      'pending', pending, 'created_at', seconds)
    call('EXPIRE', response_key, retention)
    local facts = { 'HSET', PARTITION, 'responses', (head[3] or 0) + 1 }
    if not head[5] then
      facts[5], facts[6] = 'edition', response_id
    end
    if on_branch then
      reach[segment] = offset
      for i, one in ipairs(segments) do
        local until_ms, to = milliseconds + response_life, reach[one]
        local old_until, old_to = string.match(head[5 + i] or '', '^(%d+):(%d+)$')
        if old_until and tonumber(old_until) > milliseconds then
          until_ms, to = math.max(until_ms, tonumber(old_until)), math.max(to, tonumber(old_to))
        end
        facts[#facts + 1], facts[#facts + 2] = 'reach:' .. one, string.format('%.0f:%.0f', until_ms, to)
      end
      call('ZADD', BASE .. 'journal', string.format('%.0f', line * SEGMENT_SPACE + offset),
        response_id .. FIELD_BREAK .. model .. FIELD_BREAK .. pending)
      call('HSET', branch_key, 'pending', pending, 'updated_at', milliseconds)
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
    return { 'ok', milliseconds, {}, '', on_branch and segment .. ':' .. from .. ':' .. offset or '' }
  end
end
