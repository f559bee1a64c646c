-- free_key: forget an idempotency key, so that its next request is carried out.
-- needs: nothing
-- KEYS  record
-- ARGV  token of its holder ('' = nobody holds it: its answer is there)
-- Returns {'ok', 1 if the key was there like this, else 0}.

local record = KEYS[1]
local token = ARGV[1]

if (redis.call('HGET', record, 'token') or '') ~= token then
  return { 'ok', 0 }
end
return { 'ok', redis.call('DEL', record) }
