-- withdraw_turn: give back whatever lock an opening may have taken of which no answer came.
-- needs: nothing
-- KEYS  partition, branches
-- ARGV  1 token of the opening  2 name of the branch that it was to make ('' = none)
-- Returns {'ok', how many locks this token held}.

local partition, branches_key = KEYS[1], KEYS[2]
local token, new_name = ARGV[1], ARGV[2]

local base = string.sub(partition, 1, -string.len('partition') - 1)
local held = 0
local function give_back(name)
  local key = base .. 'lock:' .. name
  if redis.call('GET', key) == token then
    held = held + redis.call('DEL', key)
  end
end

local named = redis.call('ZRANGE', branches_key, 0, -1, 'WITHSCORES')
for i = 2, #named, 2 do
  give_back(named[i])
end
if new_name ~= '' then
  give_back('=' .. new_name)
end
return { 'ok', held }
