-- read_layout: what is noted of the store's layout.
-- needs: nothing
-- KEYS  layout
-- ARGV  none
-- Returns {'ok', layout (0: none was noted), who noted it, what the backup is known by that is being restored, or ''}.

local layout_key = KEYS[1]

local fields = redis.call('HMGET', layout_key, 'version', 'writer', 'restoring')
return { 'ok', tonumber(fields[1] or '0'), fields[2] or '', fields[3] or '' }
