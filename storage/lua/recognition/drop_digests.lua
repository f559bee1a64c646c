-- drop_digests: forget what digests of histories lead to in one partition.
-- needs: nothing
-- KEYS  sorted sets of digests (all of one owner)
-- ARGV  what the members begin with
-- Returns {'ok'}. A digest that leads nowhere is gone.

local digests = KEYS
local start = ARGV[1]

for _, key in ipairs(digests) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    if string.sub(member, 1, #start) == start then
      redis.call('ZREM', key, member)
    end
  end
end
return { 'ok' }
