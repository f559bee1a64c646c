-- touch_index: note activity of a conversation in its owner's listings.
-- needs: clock
-- KEYS  sorted sets (all of one owner)
-- ARGV  conversation id
-- Returns {'ok', score}: this server's clock in ms, so that one clock orders a listing, but later than what is listed:
-- entries with the same score would be ordered by their ids. A clock that was put back further than LEAD is followed.

local listings = KEYS
local conversation_id = ARGV[1]
local LEAD = 1000

local _, clock = now()
local score = clock
for _, key in ipairs(listings) do
  local newest = tonumber(redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2])
  if newest and newest >= score and newest < clock + LEAD then
    score = newest + 1
  end
end
for _, key in ipairs(listings) do
  redis.call('ZADD', key, score, conversation_id)
end
return { 'ok', score }
