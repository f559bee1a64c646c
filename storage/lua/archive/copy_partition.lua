-- copy_partition: what a partition is at this one moment, but logs of events, locks and markers, and what it holds in bulk.
-- needs: common, response, backup
-- KEYS  partition
-- ARGV  1 if all is to come at once, else 0; ids of responses that are known to be here: those that the journal names are
--       found without
-- Returns {'ok', edition, ids of responses that are over, {name, kind, when it expires (ms, 0 = never), what it holds}, …},
-- the partition's own key last; nothing but 'ok' where there is none. Of a list of items, or of
-- pieces, only its length comes; copy_items copies it, and copy_responses those that are over. A log is copied by itself
-- (copy_log).

local is_whole = ARGV[1] == '1'
local first_id = 2

local over, seen = {}, {}
local copies = { 'ok', redis.call('HGET', PARTITION, 'edition') or '', over }
local _, milliseconds = now()
local function length(key)
  return redis.call('LLEN', key)
end
local function copy(name, kind, read)
  copy_key(copies, BASE .. name, name, kind, milliseconds, not is_whole and read or nil)
end
local function copy_response(id)
  local name = 'response:' .. id
  local status = not seen[id] and redis.call('HGET', BASE .. name, 'status')
  seen[id] = true
  if status and not is_whole and not is_unfinished(status) then
    over[#over + 1] = id
  elseif status then
    copy(name, 'hash')
    copy('job:' .. id, 'list', length)
  end
end

copy('conversation', 'hash')
copy('index', 'hash')
copy('digests', 'list')
for _, name in ipairs({ 'branches', 'tombstones', 'journal' }) do
  copy(name, 'zset')
end
for number = 0, tonumber(redis.call('HGET', PARTITION, 'next_segment') or '0') - 1 do
  copy('segment:' .. number, 'list', length)
  copy('branch:' .. number, 'hash')
  copy('holders:' .. number, 'zset')
end
each_pieces(function(name) copy('pieces:' .. name, 'list', length) end)
for i = first_id, #ARGV do
  copy_response(ARGV[i])
end
for _, entry in ipairs(redis.call('ZRANGE', BASE .. 'journal', 0, -1)) do
  copy_response(string.match(entry, FIRST_FIELD))
end
copy('partition', 'hash')
return #copies > 3 and copies or { 'ok' }
