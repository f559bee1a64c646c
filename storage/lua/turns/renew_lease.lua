-- renew_lease: keep a branch locked while its turn runs.
-- needs: nothing
-- KEYS  lock, mark of a turn that is to end, mark of a conversation that is watched
-- ARGV  token, lease ms
-- Returns {'ok', 1 if the lock is still held by this token, else 0, 1 if its turn is to end, 1 if it is watched}. A lease
-- that ran out is not taken again here: commit_turn decides, by the fence, whether anybody came in between.

local lock_key, stop_key, watched_key = KEYS[1], KEYS[2], KEYS[3]
local token, lease_ms = ARGV[1], ARGV[2]

local marks = redis.call('MGET', lock_key, stop_key, watched_key)
if marks[1] == token then
  return { 'ok', redis.call('PEXPIRE', lock_key, lease_ms), marks[2] == token and 1 or 0, marks[3] and 1 or 0 }
end
return { 'ok', 0, 0, 0 }
