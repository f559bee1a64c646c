-- record_turn: the plain case: a conversation that begins, or the next turn behind the last item of a line.
-- needs: layout, leads
--
-- Left to the general case: forks and branches beside, replaced answers, a line that is locked, an item that was deleted
-- at its end; a turn that leaves no response, or one that was accepted before it ran; items that came with an id;
-- conversations that expire; what may lead to a place that something leads to already; repeats; every refusal.

local pair_count = tonumber(ARGV[metadata_at])
local inputs_at = metadata_at + 1 + pair_count * 2
local input_count = tonumber(ARGV[inputs_at])
local outputs_at = inputs_at + 1 + input_count * FIELDS
local count = input_count + tonumber(ARGV[outputs_at])
local marks_at = inputs_at + 2 + count * FIELDS
local leads_at = marks_at + 1 + ARGV[marks_at] * MARK_FIELDS
local last_lead = leads_at + ARGV[leads_at]
local is_settled = CONVERSATION_SECONDS == 0 and stored and not ARGV[last_lead + 1]
if is_settled and (act == 'new' or act == 'tip') and count > 0 and count <= CHUNK / FIELDS then
  local call = redis.call
  local is_new = act == 'new'
  -- open: the line's chain without its end. from: offset of the first new item, if plain. ends[n]: the offset behind the
  -- first n of them, as text; to make text of a number, or a number of text, costs as much as a third of a command, so
  -- each is made once.
  local open, from, base_pending, name = '0:0:', 0, '', 'MAIN'
  local head, ends = {}, { [0] = '0' }
  line = is_new and '0' or line
  local branch_key, segment_key = BASE .. 'branch:' .. line, BASE .. 'segment:' .. line
  if is_new then
    from = call('EXISTS', PARTITION, conversation_key, branches_key, index_key, response_key, marker_key) == 0 and 0
  else
    head = call('HMGET', PARTITION, 'owner', 'kept', 'responses', 'edition', 'reach:' .. line)
    local branch = call('HMGET', branch_key, 'chain', 'pending', 'name')
    local lives = head[1] == owner and head[2] and call('HGET', conversation_key, 'id') == conversation_id
    local first = branch[1] and string.match(branch[1], ':(%d+):$')
    open, base_pending, name = branch[1], branch[2], branch[3]
    local last = call('LRANGE', segment_key, offset, -1)
    from = false
    if lives and first and segment == line and offset - first >= 0 and #last == 1 and last[1] ~= ''
      and call('PTTL', PARTITION) == -1 and call('EXISTS', response_key, marker_key, BASE .. 'lock:' .. line) == 0 then
      from = offset + 1
      ends[0] = string.format('%d', from)
    end
  end

  -- The items, and the calls that wait after them.
  local values, places, waiting = {}, {}, {}
  for call_id in string.gmatch(from and base_pending or '', CALL_ID) do
    waiting[call_id] = true
  end
  local at = inputs_at + 1
  while from and #values < count do
    at = at == outputs_at and at + 1 or at
    local origin, id, bytes, mark = unpack(ARGV, at, at + FIELDS - 1)
    places[#places + 1], places[#places + 2] = id, line .. ':' .. ends[#values]
    if mark ~= '' then
      local sign, call_id = string.sub(mark, 1, 1), string.sub(mark, 2)
      places[#places] = places[#places] .. ' ' .. mark
      if sign == '+' or sign == '~' then
        places[#places + 1], places[#places + 2] = 'call:' .. call_id, id
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

  -- What leads here: names of digests, their keys, what they get, and where those of each lead begin.
  local names, keys, scores, members, groups = {}, {}, {}, {}, {}
  local home, on_line = string.match(BASE, '{(.*)}') .. ':' .. line, ':' .. line .. ':'
  local earlier
  for i = leads_at + 1, from and last_lead or 0 do
    local number, after, asked, rest, is_behind, replaces, digests = string.match(ARGV[i], LEAD)
    if number == '0' or asked == '0' then
      from = false
      break
    end
    local place = number ~= '' and on_line .. ends[number - 1] or ''
    local asked_at = asked == '-1' and '-1:-1' or line .. ':' .. ends[asked - 1]
    local member, score = home .. place .. after .. asked_at .. rest, clock
    if is_behind == '1' then
      earlier = earlier or string.format('%.0f', clock - CONTINUED)
      score = earlier
    end
    groups[#groups + 1] = #names + 1
    for digest in string.gmatch(digests, '%S+') do
      local key = digests_at .. digest
      names[#names + 1], keys[#keys + 1], members[#members + 1], scores[#scores + 1] = digest, key, member, score
      from = from and (replaces == '0' or call('EXISTS', key) == 0) and from
    end
    if not from then
      break
    end
  end
  from = #names <= CHUNK and from

  if from then
    -- Everything is checked: from here on the script only writes.
    local pending = ''
    if next(waiting) then
      local sorted = {}
      for call_id in pairs(waiting) do
        sorted[#sorted + 1] = call_id
      end
      table.sort(sorted)
      pending = table.concat(sorted, CALL_BREAK)
    end
    local seconds, middle, past = time[1], ends[input_count], ends[count]
    local until_ms = string.format('%d', seconds + retention) .. string.sub(clock, -3)
    call('RPUSH', segment_key, unpack(values))
    call('HSET', index_key, unpack(places))
    call('HSET', response_key, 'status', status, 'snapshot', open .. past,
      'context', middle ~= '0' and open .. middle or '',
      'output', past ~= middle and line .. ':' .. middle .. ':' .. past or '', 'pending', pending, 'created_at', seconds,
      'body', body)
    call('EXPIRE', response_key, retention)
    call('ZADD', BASE .. 'journal', line == '0' and past or string.format('%.0f', line * SEGMENT_SPACE + past),
      response_id .. FIELD_BREAK .. model .. FIELD_BREAK .. pending)
    local facts = { 'HSET', PARTITION, 'responses', is_new and '1' or string.format('%d', (head[3] or 0) + 1) }
    if not head[4] then
      facts[5], facts[6] = 'edition', response_id
    end
    local reach = {}
    for one, _, stop in string.gmatch(open .. past, SPAN) do
      reach[one] = reach[one] and reach[one] - stop >= 0 and reach[one] or stop
    end
    for one, stop in pairs(reach) do
      local to, old = until_ms, head[5]
      if one ~= line then
        old = call('HGET', PARTITION, 'reach:' .. one)
      end
      local old_until, old_to = string.match(old or '', '^(%d+):(%d+)$')
      -- of as many digits the later one is the greater text
      if old_until and (#old_until > #clock or old_until > clock) then
        to = (#old_until > #to or old_until > to) and old_until or to
        stop = old_to - stop > 0 and old_to or stop
      end
      facts[#facts + 1], facts[#facts + 2] = 'reach:' .. one, to .. ':' .. stop
    end
    if is_new then
      local made = { 'id', conversation_id, 'created_at', seconds, 'updated_at', clock, 'active_branch', 'MAIN' }
      for i = metadata_at + 1, metadata_at + pair_count * 2, 2 do
        made[#made + 1], made[#made + 2] = 'm:' .. ARGV[i], ARGV[i + 1]
      end
      for _, fact in ipairs({ 'owner', owner, 'kept', '1', 'next_segment', '1' }) do
        facts[#facts + 1] = fact
      end
      call('HSET', branch_key, 'chain', '0:0:', 'pending', pending, 'created_at', clock, 'updated_at', clock, 'name',
        'MAIN')
      call('ZADD', branches_key, '0', 'MAIN')
      call('HSET', conversation_key, unpack(made))
    else
      call('HSET', branch_key, 'pending', pending, 'updated_at', clock, 'taken_by', response_id)
      call('HSET', conversation_key, 'updated_at', clock)
    end
    call(unpack(facts))
    for i = marks_at + 1, leads_at - 1, MARK_FIELDS do
      call('ZADD', digests_at .. ARGV[i], 'XX', ARGV[i + 2], ARGV[i + 1])
    end
    groups[#groups + 1] = #names + 1
    for n = 1, #groups - 1 do
      local first, last = groups[n], groups[n + 1] - 1
      -- digests of one lead are nearly always all new
      local known = first == last or call('EXISTS', unpack(keys, first, last)) > 0
      for i = first, last do
        call('ZADD', keys[i], scores[i], members[i])
        if known then
          call('ZREMRANGEBYRANK', keys[i], 0, -1 - MOST_MEMBERS)
        end
      end
    end
    if #names > 0 then
      call('RPUSH', BASE .. 'digests', unpack(names))
    end
    return { 'ok', tonumber(clock), is_new and 'new' or 'appended', tonumber(line), name,
      line .. ':' .. ends[0] .. ':' .. past }
  end
end
