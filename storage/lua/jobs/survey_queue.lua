-- survey_queue: how many jobs wait, and since when the oldest does; those that a worker has drawn wait no more.
-- needs: layout
-- KEYS  queue, owners in turn
-- ARGV  most owners that are looked at
-- Returns {'ok', jobs, ms of Unix time (0: none waits)}. Whose jobs are counted is only found out here.

local queue, owners = KEYS[1], KEYS[2]
local most = tonumber(ARGV[1])

local count, oldest = 0, 0
for _, owner in ipairs(redis.call('LRANGE', owners, 0, most - 1)) do
  local jobs = queue .. ':waiting:' .. owner
  count = count + redis.call('LLEN', jobs)
  local first = redis.call('LINDEX', jobs, 0)
  local queued = first and tonumber(string.match(first, '^(%d+):')) or 0
  if queued > 0 and (oldest == 0 or queued < oldest) then
    oldest = queued
  end
end
return { 'ok', count, oldest }
