-- touch_index: note activity of a conversation in its owner's listings, and of a response among the owner's latest.
-- needs: clock
-- KEYS  sorted sets (all of one owner) of conversations; behind them that of responses, where one is named
-- ARGV  conversation id ('' = none), response id ('' = none), most responses, ms that they are listed from now on
-- Returns {'ok', score}: this server's clock in ms, so that one clock orders a listing, but later than what is listed:
-- entries with the same score would be ordered by their ids. A clock that was put back further than LEAD is followed.
-- A list of responses lives as long as the last of them, and a little longer.

local listings = KEYS
local conversation_id, response_id, most, life = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local LEAD = 1000

local _, clock = now()
if response_id ~= '' then
  local responses = table.remove(listings)
  redis.call('ZADD', responses, clock, response_id)
  redis.call('ZREMRANGEBYRANK', responses, 0, -1 - most)
  -- a sixteenth in advance, so that it is not written each time
  if redis.call('PTTL', responses) < life then
    redis.call('PEXPIRE', responses, string.format('%.0f', life + math.floor(life / 16)))
  end
end
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
