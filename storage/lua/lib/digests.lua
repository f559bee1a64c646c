-- digests: what the digests of histories lead to, sorted sets of one owner. They lie elsewhere than what they lead to.
-- needs: leads

-- The members of a key that begin with a text; the server looks for them, for equal conversations are many.
local function beginning(key, start, count)
  local pattern, found, cursor = string.gsub(start, '[%*%?%[%]\\]', '\\%0') .. '*', {}, '0'
  repeat
    local reply = redis.call('ZSCAN', key, cursor, 'MATCH', pattern, 'COUNT', count)
    cursor = reply[1]
    for i = 1, #reply[2], 2 do
      found[#found + 1] = reply[2][i]
    end
  until tonumber(cursor) == 0
  return found
end

-- Has a digest lead to a member. replaces: in the place of all that begin as it does, up to its first space. Over the
-- most, those with the lowest scores go.
local function lead_to(key, member, score, replaces)
  local count = redis.call('ZCARD', key)
  if replaces and count > 0 then
    for _, other in ipairs(beginning(key, string.match(member, '^[^ ]* ') or member, count)) do
      if other ~= member then
        redis.call('ZREM', key, other)
      end
    end
  end
  redis.call('ZADD', key, score, member)
  if count >= MOST_MEMBERS then
    redis.call('ZREMRANGEBYRANK', key, 0, -1 - MOST_MEMBERS)
  end
end

-- Has digests live for so many ms at least (0: for ever).
local function let_live(keys, life)
  for _, key in ipairs(keys) do
    if life > 0 and redis.call('PTTL', key) < life then
      redis.call('PEXPIRE', key, life)
    end
  end
end
