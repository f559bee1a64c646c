-- enter_turn: take a slot for a turn, if fewer than so many are taken; one that is not renewed is free again.
-- needs: clock
-- KEYS  slots
-- ARGV  token, most, life of a slot in ms
-- Returns {'ok', 1 if it has one now, else 0}. Repeating it changes nothing more.

local slots_key = KEYS[1]
local token, most, life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local _, milliseconds = now()
redis.call('ZREMRANGEBYSCORE', slots_key, '-inf', milliseconds)
if not redis.call('ZSCORE', slots_key, token) and redis.call('ZCARD', slots_key) >= most then
  return { 'ok', 0 }
end
redis.call('ZADD', slots_key, milliseconds + life, token)
redis.call('PEXPIRE', slots_key, life)
return { 'ok', 1 }
