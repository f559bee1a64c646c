-- note_digests: what digests of histories lead to from now on.
-- needs: nothing
-- KEYS  sorted sets of digests (all of one owner)
-- ARGV  1 their time to live in ms (0 = none)  2 most members that one may have  3 and on, in fours: number of the key;
--       what is done: 'add', or 'set' the score of a member that is there; member; score
--   A member that is added takes the place of all that begin as it does, up to its first space.
-- Returns {'ok'}. Over the most, those with the lowest scores go.

local digests = KEYS
local life, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local notes_at = 3

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

local touched = {}
for i = notes_at, #ARGV, 4 do
  local key, what, member, score = digests[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if what == 'set' then
    if redis.call('ZSCORE', key, member) then
      redis.call('ZADD', key, score, member)
    end
  else
    local start = string.match(member, '^[^ ]* ') or member
    local count = redis.call('ZCARD', key)
    for _, other in ipairs(count > 0 and beginning(key, start, count) or {}) do
      if other ~= member then
        redis.call('ZREM', key, other)
      end
    end
    redis.call('ZADD', key, score, member)
    if count >= most then
      local lowest = redis.call('ZRANGE', key, 0, 0)
      redis.call('ZREM', key, lowest[1])
    end
    touched[key] = true
  end
end
for key in pairs(touched) do
  if life > 0 and redis.call('PTTL', key) < life then
    redis.call('PEXPIRE', key, life)
  end
end
return { 'ok' }
