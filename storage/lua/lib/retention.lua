-- retention: how long a conversation is kept after its use. A script that `prolongs` answers through `prolong`.
-- needs: common
--
-- CONVERSATION_SECONDS, put before everything, is how long a conversation is kept after its last use; 0: for ever. Then
-- its keys have no time to live. Else all of them have the same: the partition's key goes first, because nothing is
-- found without it, and the others GRACE later. To prolong a life takes a command a key, so it is done for a sixteenth
-- of the time in advance.

local function expire_at(key, milliseconds)
  redis.call('PEXPIREAT', key, string.format('%.0f', milliseconds))
end

-- Calls `visit(key)` for all keys that live as long as the conversation, but for the partition's own.
local function each_lasting_key(visit)
  for _, name in ipairs({ 'conversation', 'branches', 'index', 'tombstones', 'journal', 'digests' }) do
    visit(BASE .. name)
  end
  for segment = 0, tonumber(redis.call('HGET', PARTITION, 'next_segment') or '0') - 1 do
    if redis.call('EXISTS', branch_key(segment), holders_key(segment)) > 0 then
      visit(segment_key(segment))
      visit(branch_key(segment))
      visit(holders_key(segment))
      pieces_of(segment, visit)
    end
  end
end

-- Until when a response or a running turn reads anything here, in ms.
local function latest_reach()
  local latest, fields = 0, redis.call('HGETALL', PARTITION)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 6) == 'reach:' then
      latest = math.max(latest, tonumber(string.match(fields[i + 1], '^%d+')))
    end
  end
  return latest
end

-- Gives a living conversation its time: anew if it was used, else what is left of it, to keys that have none.
local function prolong(used)
  local left = redis.call('PTTL', PARTITION)
  if (CONVERSATION_SECONDS == 0 and left < 0) or not is_kept() then
    return
  end
  if CONVERSATION_SECONDS == 0 then
    redis.call('PERSIST', PARTITION)
    each_lasting_key(function(key) redis.call('PERSIST', key) end)
    return
  end
  local wanted, _, milliseconds = CONVERSATION_SECONDS * 1000, now()
  local anew = left < 0 or (used and left < wanted)
  local deadline = milliseconds + left
  if anew then
    deadline = math.max(milliseconds + wanted + math.floor(wanted / 16), latest_reach())
    expire_at(PARTITION, deadline)
  end
  each_lasting_key(function(key)
    if anew or redis.call('PTTL', key) == -1 then
      expire_at(key, deadline + GRACE)
    end
  end)
end
