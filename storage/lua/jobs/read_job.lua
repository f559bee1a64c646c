-- read_job: a part of what it takes to run a response, of a job in pieces.
-- needs: nothing
-- KEYS  response, pieces
-- ARGV  token of the attempt that runs it, number of the piece, from 0
-- Returns {'ok', bytes}; {'ok', 0} when another attempt runs it, or it is over; {'ok', 1} when the pieces are lost.
-- Writes nothing.

local response_key, pieces_key = KEYS[1], KEYS[2]
local token, number = ARGV[1], ARGV[2]

if redis.call('HGET', response_key, 'token') ~= token then
  return { 'ok', 0 }
end
return { 'ok', redis.call('LINDEX', pieces_key, number) or 1 }
