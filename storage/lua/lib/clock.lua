-- clock: the server's clock, which every time in the store is of.
-- needs: nothing

-- Seconds and milliseconds of Unix time.
local function now()
  local time = redis.call('TIME')
  local seconds = tonumber(time[1])
  return seconds, seconds * 1000 + math.floor(time[2] / 1000)
end
