-- stage_items: bring a part of what a large call is about to store to where the call will find it.
-- needs: nothing
-- KEYS  staged list
-- ARGV  offset of the first of these items, life s, items… (a few hundred: they go through the Lua stack)
-- Returns {'ok', length of the list}: shorter than the offset when what came before is gone, then nothing was written.
-- Nobody reads the list before the script of the call makes a segment of it (append.lua), and it expires if that never
-- comes. What is there already is not written again.

local staged_key = KEYS[1]
local offset, life = tonumber(ARGV[1]), ARGV[2]
local first_item = 3

local length = redis.call('LLEN', staged_key)
local first = first_item + length - offset
if first >= first_item and first <= #ARGV then
  redis.call('RPUSH', staged_key, unpack(ARGV, first))
  length = redis.call('LLEN', staged_key)
end
redis.call('EXPIRE', staged_key, life)
return { 'ok', length }
