-- copy_log: some of a log of events.
-- needs: log, backup
-- KEYS  log
-- ARGV  generation that it had when its copy was begun ('' = it begins now), id of the last entry that is known ('0' = none),
--       bytes after which no more is read
-- Returns {'ok', owner, generation, when it expires (ms, 0 = never), entries, where the pieces of the last one end in their
-- list}, no entries at the end; {'ok', 0} where there is none, or another one.

local log_key = KEYS[1]
local generation, from, room = ARGV[1], '(' .. ARGV[2], tonumber(ARGV[3])

local FEW = 4
local head = redis.call('XRANGE', log_key, '0-1', '0-1')[1]
if not head or generation ~= '' and head[2][4] ~= generation then
  return { 'ok', 0 }
end
local entries = {}
while room > 0 do
  local some = redis.call('XRANGE', log_key, from, '+', 'COUNT', FEW)
  for _, entry in ipairs(some) do
    entries[#entries + 1] = entry
    room = room - #(entry[2][4] or '')
    from = '(' .. entry[1]
  end
  if #some < FEW then
    break
  end
end
local copies = {}
local _, milliseconds = now()
copy_key(copies, log_key, '', 'stream', milliseconds, function() return '' end)
return { 'ok', head[2][2], head[2][4], copies[1][3], entries, pieces_in(entries[#entries]) or 0 }
