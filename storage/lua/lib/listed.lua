-- listed: a turn noted in its owner's listings, before anything else; put behind the names of a script that `lists`.
-- needs: nothing
--
-- It takes the names conversation_id, response_id, retention (s), first_listing (number of the first key of a listing),
-- listed (how many there are of conversations, more than one where that has a project or a referrer; 0: none is noted) and
-- most (responses that the list behind those keeps, the latest; 0: there is no such list). A list of many is cut short with
-- one response in sixteen, told by its id, so that it may have a few more meanwhile.
-- It gives time, as the server tells it, clock, the same in ms, as text, and score, what conversations are listed under:
-- the clock, but later than what is listed, because entries with the same score would be ordered by their ids. A clock
-- that was put back further than a second is followed. A list of responses lives as long as the last of them, and a
-- sixteenth longer, so that its life is not written each time.

local time = redis.call('TIME')
-- to make text of a number, or a number of text, costs as much as a third of a command
local clock = time[1] .. string.sub('00000' .. time[2], -6, -4)
local score, last_listing = clock, first_listing + listed - 1
for i = first_listing, last_listing do
  local newest = redis.call('ZREVRANGE', KEYS[i], 0, 0, 'WITHSCORES')[2]
  -- of as many digits the later one is the greater text
  if newest and (newest >= clock or #newest ~= #clock) and newest - score >= 0 and newest - clock < 1000 then
    score = string.format('%.0f', newest + 1)
  end
end
for i = first_listing, last_listing do
  redis.call('ZADD', KEYS[i], score, conversation_id)
end
if most ~= '0' then
  local responses = KEYS[last_listing + 1]
  redis.call('ZADD', responses, clock, response_id)
  if #most < 3 or string.sub(response_id, -1) == '0' then
    redis.call('ZREMRANGEBYRANK', responses, 0, -1 - most)
  end
  if redis.call('PTTL', responses) < retention * 1000 then
    redis.call('PEXPIRE', responses, string.format('%.0f', retention * 1000 + math.floor(retention * 1000 / 16)))
  end
end
