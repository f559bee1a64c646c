-- touch_index: note activity of a conversation in its owner's listings.
-- needs: clock
-- KEYS  sorted sets (all of one owner)
-- ARGV  conversation id
-- Returns {'ok', score}: this server's clock in ms, so that one clock orders a listing.

local listings = KEYS
local conversation_id = ARGV[1]

local _, score = now()
for _, key in ipairs(listings) do
  redis.call('ZADD', key, score, conversation_id)
end
return { 'ok', score }
