-- leave_turn: give a turn's slot back.
-- needs: nothing
-- KEYS  slots
-- ARGV  token
-- Returns {'ok'}.

local slots_key = KEYS[1]
local token = ARGV[1]

redis.call('ZREM', slots_key, token)
return { 'ok' }
