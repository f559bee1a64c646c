-- keep_turns: renew the slots of turns that run.
-- needs: clock
-- KEYS  slots
-- ARGV  life of a slot in ms, tokens…
-- Returns {'ok'}. A slot that was lost is taken again, however many there are: its turn runs.

local slots_key = KEYS[1]
local life = tonumber(ARGV[1])
local first_token = 2

local _, milliseconds = now()
for i = first_token, #ARGV do
  redis.call('ZADD', slots_key, milliseconds + life, ARGV[i])
end
redis.call('PEXPIRE', slots_key, life)
return { 'ok' }
