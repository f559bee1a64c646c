-- read_piece_of_log: a piece of a batch of events.
-- needs: nothing
-- KEYS  log, what it has in pieces
-- ARGV  owner, generation, place of the piece in the list
-- Returns {'ok', bytes}; {'ok', 0} when the log is gone, or has been begun anew, {'ok', 1} when the piece is lost. Writes
-- nothing.

local log_key, pieces_key = KEYS[1], KEYS[2]
local owner, generation, place = ARGV[1], ARGV[2], ARGV[3]

local head = redis.call('XRANGE', log_key, '0-1', '0-1')[1]
if not head or head[2][2] ~= owner or head[2][4] ~= generation then
  return { 'ok', 0 }
end
return { 'ok', redis.call('LINDEX', pieces_key, place) or 1 }
