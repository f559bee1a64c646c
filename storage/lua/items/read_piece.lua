-- read_piece: a part of an item that lies in pieces.
-- needs: nothing
-- KEYS  partition, pieces
-- ARGV  owner, number of the piece, from 0
-- Returns {'ok', bytes}; {'ok', 0} when the item is not there any more, {'ok', 1} when it is and its pieces are lost.
-- Writes nothing.

local partition, pieces_key = KEYS[1], KEYS[2]
local owner, number = ARGV[1], ARGV[2]

local facts = redis.call('HMGET', partition, 'owner', 'pieces')
if facts[1] ~= owner or not string.find(facts[2] or '', string.match(pieces_key, '[^:]*$'), 1, true) then
  return { 'ok', 0 }
end
return { 'ok', redis.call('LINDEX', pieces_key, number) or 1 }
