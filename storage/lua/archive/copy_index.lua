-- copy_index: some of the index of a partition that has been copied at an earlier moment.
-- needs: nothing
-- KEYS  partition, index
-- ARGV  edition that the partition had then, cursor ('0' = from the beginning), how many entries
-- Returns {'ok', cursor ('0' at the end), field, value, …}: all that were there at that moment, some twice, and some that
-- came since; {'ok', 0} when something was taken from the partition since.

local partition, index_key = KEYS[1], KEYS[2]
local edition, cursor, count = ARGV[1], ARGV[2], ARGV[3]

if (redis.call('HGET', partition, 'edition') or '') ~= edition then
  return { 'ok', 0 }
end
local found = redis.call('HSCAN', index_key, cursor, 'COUNT', count)
return { 'ok', found[1], found[2] }
