-- clock: the server's clock, which every time in the store is of.
-- needs: nothing

-- Seconds and milliseconds of Unix time.
local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]), tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
