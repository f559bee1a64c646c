-- copy_responses: responses that are over, as a backup has them: nothing in them changes any more.
-- needs: layout, backup
-- KEYS  partition
-- ARGV  bytes after which no more are read; ids
-- Returns {'ok', {name, kind, when it expires (ms, 0 = never), what it holds}, …}, of one at least; {'ok', 0} when one is
-- not there any more.

local room = tonumber(ARGV[1])
local first_id = 2

local copies = { 'ok' }
local _, milliseconds = now()
for i = first_id, #ARGV do
  if room <= 0 then
    break
  end
  local name = 'response:' .. ARGV[i]
  copy_key(copies, BASE .. name, name, 'hash', milliseconds)
  if #copies < i then
    return { 'ok', 0 }
  end
  for _, text in ipairs(copies[#copies][4]) do
    room = room - #text
  end
end
return copies
