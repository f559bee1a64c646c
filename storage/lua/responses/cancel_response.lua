-- cancel_response: end a response as cancelled, wherever it runs; nothing of it will be kept.
-- needs: job
-- KEYS  partition, response
-- ARGV  owner
-- Returns {'ok', 1} when it is over now, or was before; {'ok', 0} when it was made while its client waited;
-- {'response_not_found'}.

local response_key = KEYS[2]
local owner = ARGV[1]

local fields = owned(owner) and redis.call('HMGET', response_key, 'status', 'background')
if not fields or not fields[1] then
  return { 'response_not_found' }
end
if not fields[2] then
  return { 'ok', 0 }
end
if is_unfinished(fields[1]) then
  conclude(response_key, 'cancelled', 'null')
end
return { 'ok', 1 }
