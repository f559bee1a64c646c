-- copy_key: one key at this moment.
-- needs: backup
-- KEYS  key
-- ARGV  name that it goes by, kind (hash, list, zset)
-- Returns {'ok', {name, kind, when it expires (ms, 0 = never), what it holds}}; {'ok'} where there is none.

local key = KEYS[1]
local name, kind = ARGV[1], ARGV[2]

local copies = { 'ok' }
local _, milliseconds = now()
copy_key(copies, key, name, kind, milliseconds)
return copies
