-- drop_staged: forget what was staged for a call that did not take it.
-- needs: nothing
-- KEYS  partition, staged list, pieces of items…
-- ARGV  none
-- Returns {'ok'}. What a call has taken, this one or the one that it repeats, stays.

local partition, staged_key, pieces_keys = KEYS[1], KEYS[2], { unpack(KEYS, 3) }

redis.call('UNLINK', staged_key)
local taken = redis.call('HGET', partition, 'pieces') or ''
for _, key in ipairs(pieces_keys) do
  if not string.find(taken, string.match(key, '[^:]*$'), 1, true) then
    redis.call('UNLINK', key)
  end
end
return { 'ok' }
