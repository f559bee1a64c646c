-- renew_lease: keep a branch locked while its turn runs.
-- KEYS  lock
-- ARGV  token, lease ms
-- Returns {'ok', 1 if the lock is still held by this token, else 0}. A lease that ran out is not taken again here:
-- commit_turn decides, by the fence, whether anybody came in between.

if redis.call('GET', KEYS[1]) == ARGV[1] then
  return { 'ok', redis.call('PEXPIRE', KEYS[1], ARGV[2]) }
end
return { 'ok', 0 }
