-- free_key: forget an idempotency key, so that its next request is carried out.
-- KEYS  record
-- ARGV  token of its holder ('' = nobody holds it: its answer is there)
-- Returns {'ok', 1 if the key was there like this, else 0}.

if (redis.call('HGET', KEYS[1], 'token') or '') ~= ARGV[1] then
  return { 'ok', 0 }
end
return { 'ok', redis.call('DEL', KEYS[1]) }
