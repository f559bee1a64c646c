-- note_digests: what digests of histories lead to from now on.
-- needs: digests
-- KEYS  sorted sets of digests (all of one owner)
-- ARGV  1 their time to live in ms (0 = none)  2 and on, in fours: number of the key; what is done: 'add', or 'set' the
--       score of a member that is there; member; score
--   A member that is added takes the place of all that begin as it does, up to its first space.
-- Returns {'ok'}. Over the most, those with the lowest scores go.

local digests = KEYS
local life = tonumber(ARGV[1])
local notes_at = 2

local touched = {}
for i = notes_at, #ARGV, 4 do
  local key, what, member, score = digests[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if what == 'set' then
    redis.call('ZADD', key, 'XX', score, member)
  else
    lead_to(key, member, score, true)
    touched[#touched + 1] = key
  end
end
let_live(touched, life)
return { 'ok' }
