-- hold_digests: note in a partition which digests lead to it, so that they go with its conversation.
-- needs: common
-- prolongs: rest
-- KEYS  partition
-- ARGV  owner, names of digests…
-- Returns {'ok', 1}; {'ok', 0} when no conversation lives here any more: nothing was written, nothing may lead here.

local owner = ARGV[1]
local names_at = 2

if not owned(owner) or not is_kept() then
  return { 'ok', 0 }
end
for i = names_at, #ARGV, CHUNK do
  redis.call('RPUSH', BASE .. 'digests', unpack(ARGV, i, math.min(i + CHUNK - 1, #ARGV)))
end
return { 'ok', 1 }
