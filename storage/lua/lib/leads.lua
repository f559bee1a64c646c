-- leads: what leads to recorded turns, as scripts are given it, and how much of it there may be; constants only.
-- needs: nothing

-- Arguments that a mark takes (record_turn.lua), and what a lead is made of: no hint has a bar.
local MARK_FIELDS = 3
local LEAD = '^(%d*)|([^|]*)|(-?%d+)|([^|]*)|([01])([01])|(.*)$'
-- Members that a digest may have, and what is taken off the score of those that were gone on from.
local MOST_MEMBERS, CONTINUED = 1024, 100000000000000
