-- touch_index: note activity of a conversation in its owner's listings, and of a response among the owner's latest.
-- needs: nothing
-- lists: the conversation, the response
-- KEYS  sorted sets (all of one owner) of conversations; behind them that of responses, where one is named
-- ARGV  1 conversation id ('' = none)  2 response id ('' = none)  3 number of listings of conversations  4 most responses
--       (0: none is noted)  5 retention s: that they are listed from now on
-- Returns {'ok', score}: what the conversation is listed under, by this server's clock in ms.

local conversation_id, response_id, listed, most, retention = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local first_listing = 1

return { 'ok', score }
