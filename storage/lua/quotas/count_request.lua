-- count_request: let a request pass if its owner has not made too many: as many at once as a minute has, then as they
-- come back, evenly (GCRA: what is kept is when all of them would be back).
-- needs: clock
-- KEYS  the owner's requests
-- ARGV  most a minute
-- Returns {'ok', 1 if it passes, else 0, requests left, ms until all are back, ms until the next one passes}.

local requests_key = KEYS[1]
local most = tonumber(ARGV[1])
local MINUTE = 60000

local _, milliseconds = now()
local interval = MINUTE / most
local back_at = math.max(tonumber(redis.call('GET', requests_key) or '0'), milliseconds)
local after = back_at + interval
local wait = after - MINUTE - milliseconds
if wait > 0 then
  return { 'ok', 0, 0, math.ceil(back_at - milliseconds), math.ceil(wait) }
end
redis.call('SET', requests_key, string.format('%.3f', after), 'PX', math.ceil(after - milliseconds))
return { 'ok', 1, math.floor(-wait / interval), math.ceil(after - milliseconds), 0 }
