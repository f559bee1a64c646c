-- drop_index: take a conversation out of its owner's listings.
-- KEYS  sorted sets (all of one owner)
-- ARGV  conversation id, least age of the entry in ms (0 = any)
-- Returns {'ok'}. An entry younger than that stays: its conversation may be about to be written.

local time = redis.call('TIME')
local newest = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[2])
for _, key in ipairs(KEYS) do
  local score = ARGV[2] ~= '0' and redis.call('ZSCORE', key, ARGV[1])
  if not score or tonumber(score) <= newest then
    redis.call('ZREM', key, ARGV[1])
  end
end
return { 'ok' }
