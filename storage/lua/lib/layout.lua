-- layout: where things lie in a partition, and how what has several parts is written; constants only.
-- needs: nothing
--
-- The first key of a script is the partition's hash, `…:{partition}:partition`; the keys of its segments are
-- built from it, because a chain is read and followed in one call. They share its hash tag, so its slot.

local PARTITION = KEYS[1]
local BASE = string.sub(PARTITION, 1, -string.len('partition') - 1)

local CHUNK = 1000 -- arguments to one command; the Lua stack holds about 8,000
local SEGMENT_SPACE = 1073741824 -- offsets that a segment has room for, in what counts places of all segments: 2^30
-- Between call ids in a list of them: ids are any text, and this is the character least likely in one.
local CALL_BREAK, CALL_ID = '\30', '[^\30]+'
-- Between the parts of a journal entry, or of any other text that is made of several.
local FIELD_BREAK, FIRST_FIELD = '\31', '^[^\31]*'
-- A closed span of a chain.
local SPAN = '(%d+):(%d+):(%d+)'
-- Items of a history that are read by one command: how long they are is known only then. While they are short (a SHORT-th
-- of the room that there is for all), it is more and more, because to find a place in a long list takes its time too.
local STEP, LONGEST_STEP, SHORT = 8, 32, 16
-- Arguments that an entry takes (append.lua).
local FIELDS = 4
-- Milliseconds by which the keys of a conversation that expires outlive its partition's (retention.lua).
local GRACE = 60000
