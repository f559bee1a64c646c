-- probe_writes: ask whether this server would take a write of this user's scripts now; nothing is written.
-- needs: nothing
-- KEYS  a key that nobody uses
-- ARGV  none
-- Returns {'ok', bytes of memory used, bytes that may be used (0: no limit)}, both 0 where the user may not ask. What
-- Redis has against writes it answers itself, as to any script that writes.

local probe = KEYS[1]

local information = redis.pcall('INFO', 'memory')
local function figure(name)
  local found = type(information) == 'string' and string.match(information, name .. ':(%d+)')
  return tonumber(found or '0')
end

redis.call('SET', probe, '', 'XX')
return { 'ok', figure('used_memory'), figure('maxmemory') }
