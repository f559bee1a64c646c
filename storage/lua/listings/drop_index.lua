-- drop_index: take a conversation out of its owner's listings.
-- needs: clock
-- KEYS  sorted sets (all of one owner)
-- ARGV  conversation id, least age of the entry in ms (0 = any)
-- Returns {'ok'}. An entry younger than that stays: its conversation may be about to be written.

local listings = KEYS
local conversation_id, least_age_ms = ARGV[1], ARGV[2]

local _, milliseconds = now()
local newest = milliseconds - tonumber(least_age_ms)
for _, key in ipairs(listings) do
  local score = least_age_ms ~= '0' and redis.call('ZSCORE', key, conversation_id)
  if not score or tonumber(score) <= newest then
    redis.call('ZREM', key, conversation_id)
  end
end
return { 'ok' }
