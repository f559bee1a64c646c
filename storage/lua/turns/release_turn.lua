-- release_turn: give a branch's lock back without writing anything else.
-- needs: nothing
-- KEYS  lock
-- ARGV  token
-- Returns {'ok', 1 if the lock was held by this token, else 0}.

local lock_key = KEYS[1]
local token = ARGV[1]

if redis.call('GET', lock_key) == token then
  return { 'ok', redis.call('DEL', lock_key) }
end
return { 'ok', 0 }
