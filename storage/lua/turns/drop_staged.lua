-- drop_staged: forget what was staged for a call that was refused.
-- needs: nothing
-- KEYS  staged list
-- ARGV  none
-- Returns {'ok'}.

local staged_key = KEYS[1]

redis.call('UNLINK', staged_key)
return { 'ok' }
