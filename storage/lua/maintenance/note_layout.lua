-- note_layout: note the layout that the store has come to.
-- needs: nothing
-- KEYS  layout
-- ARGV  layout, who notes it, token of the one who migrates it
-- Returns {'ok', 1 if it was noted, 0 where somebody else migrates it by now}.

local layout_key = KEYS[1]
local version, writer, token = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', layout_key, 'migrating') ~= token then
  return { 'ok', 0 }
end
redis.call('HSET', layout_key, 'version', version, 'writer', writer)
redis.call('HDEL', layout_key, 'migrating', 'lease_until')
return { 'ok', 1 }
