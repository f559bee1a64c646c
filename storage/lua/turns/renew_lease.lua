-- renew_lease: keep a branch locked while its turn runs.
-- needs: nothing
-- KEYS  lock
-- ARGV  token, lease ms
-- Returns {'ok', 1 if the lock is still held by this token, else 0}. A lease that ran out is not taken again here:
-- commit_turn decides, by the fence, whether anybody came in between.

local lock_key = KEYS[1]
local token, lease_ms = ARGV[1], ARGV[2]

if redis.call('GET', lock_key) == token then
  return { 'ok', redis.call('PEXPIRE', lock_key, lease_ms) }
end
return { 'ok', 0 }
