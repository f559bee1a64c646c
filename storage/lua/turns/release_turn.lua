-- release_turn: give a branch's lock back without writing anything else.
-- KEYS  lock
-- ARGV  token
-- Returns {'ok', 1 if the lock was held by this token, else 0}.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return { 'ok', redis.call('DEL', KEYS[1]) }
end
return { 'ok', 0 }
