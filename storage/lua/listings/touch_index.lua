-- touch_index: note activity of a conversation in its owner's listings.
-- KEYS  sorted sets (all of one owner)
-- ARGV  conversation id
-- Returns {'ok', score}: this server's clock in ms, so that one clock orders a listing.

local time = redis.call('TIME')
local score = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, score, ARGV[1])
end
return { 'ok', score }
