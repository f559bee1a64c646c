-- read_head: what a list of conversations shows of one, of its active branch.
-- needs: view
-- KEYS  partition, conversation, branches
-- ARGV  owner, conversation id
-- Returns {'ok', items, branches, model or '', {bytes, size} of the first message of a user, {bytes, size} of the last
-- message ({} for none), id of the running response or ''}, or {'conversation_not_found'},
-- {'branch_not_found', name} (damaged: its active branch is gone). No more than LOOKED_AT items
-- or BYTES at either end are looked at. Writes nothing.

local conversation_key, branches_key = KEYS[2], KEYS[3]
local owner, conversation_id = ARGV[1], ARGV[2]
local LOOKED_AT, BYTES = 20, 524288

local branch, refusal = find_branch(owner, conversation_key, conversation_id, branches_key, '')
if not branch then
  return refusal
end
local chain = chain_of(branch.line)
local length = length_of(chain)

-- The first message that `is_it` wants, looking at the places from number `from` on, each `step` after the last.
local function find_message(from, step, is_it)
  local bytes, number = 0, from
  while number >= 0 and number < length and bytes < BYTES and math.abs(number - from) < LOOKED_AT do
    local span = part_of(chain, number, number + 1)[1]
    local element = redis.call('LINDEX', segment_key(span[1]), span[2]) or ''
    local role = string.match(element, MESSAGE)
    if role and is_it(role) then
      return element
    end
    bytes, number = bytes + #element, number + step
  end
end

local function last_model()
  for i = #chain, math.max(#chain - LOOKED_AT, 1), -1 do
    local segment, from, to = chain[i][1], chain[i][2], chain[i][3]
    local model = first_model('ZREVRANGEBYSCORE', position(segment, to), '(' .. position(segment, from), LOOKED_AT)
    if model then
      return model
    end
  end
  return ''
end

return { 'ok', count_items(chain), redis.call('ZCARD', branches_key), last_model(),
  excerpt(find_message(0, 1, function(role) return role == 'user' end)),
  excerpt(find_message(length - 1, -1, function() return true end)), running_with(branch.line) }
