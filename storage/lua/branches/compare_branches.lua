-- compare_branches: what two branches share, and what only one of them has.
-- needs: branch
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id, name, other name, most items of either side
-- Returns {'ok', bytes of the last item of their common beginning or '', number of shared items,
-- more of the first's own (0 or 1), {item bytes…}, more of the second's own, {item bytes…}}, or
-- {'conversation_not_found'}, {'branch_not_found', name}. Writes nothing.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id, first_name, second_name, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

local chains = {}
for i, name in ipairs({ first_name, second_name }) do
  local branch, refusal = find_branch(owner, conversation_key, conversation_id, branches_key, name)
  if not branch then
    return refusal
  end
  chains[i] = chain_of(branch.line)
end

-- The spans that both chains begin with.
local function common_beginning(one, other)
  local common = {}
  for i, span in ipairs(one) do
    local twin = other[i]
    if not twin or twin[1] ~= span[1] or twin[2] ~= span[2] then
      break
    end
    common[i] = { span[1], span[2], math.min(span[3], twin[3]) }
    if span[3] ~= twin[3] then
      break
    end
  end
  return common
end

-- What is left of a chain without the places of another, and how many of its items it shares with it.
local function subtract(one, other)
  local rest, shared = {}, 0
  for _, span in ipairs(one) do
    local taken = {}
    for _, twin in ipairs(other) do
      local from, to = math.max(span[2], twin[2]), math.min(span[3], twin[3])
      if twin[1] == span[1] and from < to then
        taken[#taken + 1] = { span[1], from, to }
      end
    end
    table.sort(taken, function(a, b) return a[2] < b[2] end)
    local at = span[2]
    for _, part in ipairs(taken) do
      if part[3] > at then
        shared = shared + count_items({ { part[1], math.max(at, part[2]), part[3] } })
      end
      if part[2] > at then
        rest[#rest + 1] = { span[1], at, part[2] }
      end
      at = math.max(at, part[3])
    end
    if at < span[3] then
      rest[#rest + 1] = { span[1], at, span[3] }
    end
  end
  return rest, shared
end

local function first_items(chain)
  local items = {}
  for _, span in ipairs(chain) do
    local low = span[2]
    while low < span[3] and #items <= limit do
      local high = math.min(span[3] - 1, low + limit)
      for _, bytes in ipairs(redis.call('LRANGE', segment_key(span[1]), low, high)) do
        if bytes ~= '' and #items <= limit then
          items[#items + 1] = bytes
        end
      end
      low = high + 1
    end
  end
  local more = #items > limit and 1 or 0
  items[limit + 1] = nil
  return more, items
end

local only_first, shared = subtract(chains[1], chains[2])
local only_second = subtract(chains[2], chains[1])
local reply = { 'ok', last_item(common_beginning(chains[1], chains[2])) or '', shared }
for _, rest in ipairs({ only_first, only_second }) do
  reply[#reply + 1], reply[#reply + 2] = first_items(rest)
end
return reply
