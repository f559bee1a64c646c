-- purge_partition: delete what one owner has in a partition, for good: whatever has no time to live at once, with the
-- names that were found there.
-- needs: import
-- KEYS  partition
-- ARGV  owner, 1 if these are the last names else 0, names of keys behind the partition's…
-- Returns {'ok', keys deleted, 1 if a conversation lived here else 0}; with another owner's partition nothing happens.

local owner, is_last_step = ARGV[1], ARGV[2] == '1'
local first_name = 3

local facts = redis.call('HMGET', PARTITION, 'owner', 'importing')
if redis.call('EXISTS', PARTITION) == 1 and (facts[1] or importer_of(facts[2])) ~= owner then
  return { 'ok', 0, 0 }
end
local deleted, lived = 0, is_last_step and is_kept() and 1 or 0
local segments = tonumber(redis.call('HGET', PARTITION, 'next_segment') or '0')
for i = first_name, #ARGV do
  deleted = deleted + redis.call('UNLINK', BASE .. ARGV[i])
end
if is_last_step then
  deleted = deleted + free_pieces(function() return true end)
  for segment = 0, segments - 1 do
    deleted = deleted + redis.call('UNLINK', segment_key(segment), branch_key(segment), holders_key(segment))
  end
  for _, name in ipairs({ 'conversation', 'branches', 'index', 'tombstones', 'journal', 'digests', 'partition' }) do
    deleted = deleted + redis.call('UNLINK', BASE .. name)
  end
end
return { 'ok', deleted, lived }
