-- copy_partition: all of a partition at this one moment, but logs of events, locks and markers.
-- needs: common, backup
-- KEYS  partition
-- ARGV  ids of responses that are known to be here; those that the journal names are found without
-- Returns {'ok', {name, kind, when it expires (ms, 0 = never), what it holds}, …}, the partition's own key last; nothing
-- but 'ok' where there is none. A log is copied by itself (copy_key): it only grows, and may be long.

local response_ids = ARGV

local copies, seen = { 'ok' }, {}
local _, milliseconds = now()
local function copy(name, kind)
  copy_key(copies, BASE .. name, name, kind, milliseconds)
end
local function copy_response(id)
  if not seen[id] then
    seen[id] = true
    copy('response:' .. id, 'hash')
    copy('job:' .. id, 'list')
  end
end

copy('conversation', 'hash')
copy('index', 'hash')
copy('digests', 'list')
for _, name in ipairs({ 'branches', 'tombstones', 'journal' }) do
  copy(name, 'zset')
end
for number = 0, tonumber(redis.call('HGET', PARTITION, 'next_segment') or '0') - 1 do
  copy('segment:' .. number, 'list')
  copy('branch:' .. number, 'hash')
  copy('holders:' .. number, 'zset')
end
each_pieces(function(name) copy('pieces:' .. name, 'list') end)
for _, id in ipairs(response_ids) do
  copy_response(id)
end
for _, entry in ipairs(redis.call('ZRANGE', BASE .. 'journal', 0, -1)) do
  copy_response(string.match(entry, FIRST_FIELD))
end
copy('partition', 'hash')
return copies
