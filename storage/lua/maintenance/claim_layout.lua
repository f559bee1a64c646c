-- claim_layout: say how the store is laid out, and take the right to change that where it is older.
-- needs: clock
-- KEYS  layout
-- ARGV  newest layout that the caller knows, its token, lease ms
-- Returns {'ok', layout (0: none was noted), who noted it, 'current' | 'newer' | 'restoring' | 'busy' | 'claimed'}.
-- 'restoring': a backup is being written into the store, or was not to its end. 'busy': somebody else migrates it.

local layout_key = KEYS[1]
local newest, token, lease_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

local fields = redis.call('HMGET', layout_key, 'version', 'writer', 'restoring', 'migrating', 'lease_until')
local version, writer = tonumber(fields[1] or '0'), fields[2] or ''
local function standing(word)
  return { 'ok', version, writer, word }
end

if version > newest then
  return standing('newer')
elseif fields[3] then
  return standing('restoring')
elseif version == newest then
  return standing('current')
end
local _, milliseconds = now()
if fields[4] and fields[4] ~= token and tonumber(fields[5]) > milliseconds then
  return standing('busy')
end
redis.call('HSET', layout_key, 'migrating', token, 'lease_until', string.format('%.0f', milliseconds + lease_ms))
return standing('claimed')
