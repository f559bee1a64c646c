-- note_restore: note that a backup is being written into the store, so that nobody works with half of it, or no more.
-- needs: nothing
-- KEYS  layout
-- ARGV  layout of the backup, who wrote it, what it is known by ('' = it is all there now)
-- Returns {'ok'}.

local layout_key = KEYS[1]
local version, writer, backup = ARGV[1], ARGV[2], ARGV[3]

redis.call('HSET', layout_key, 'version', version, 'writer', writer)
if backup == '' then
  redis.call('HDEL', layout_key, 'restoring')
else
  redis.call('HSET', layout_key, 'restoring', backup)
end
return { 'ok' }
