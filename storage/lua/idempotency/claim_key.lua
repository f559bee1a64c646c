-- claim_key: become the one that carries out what an idempotency key stands for, or say how that stands.
-- needs: clock
-- KEYS  record
-- ARGV  fingerprint of the request, token, lease ms, retention s (0 = only look), token of the holder that is put
--       aside ('' = nobody's, '*' = whatever is there)
-- Returns {'ok', 'mine'}, {'ok', 'free'} (only looked), {'ok', 'reused'} for another fingerprint,
-- {'ok', 'running'}, {'ok', 'lapsed', holder's token, response id} when its lease is over,
-- {'ok', 'answered', status, content type, response id, 1 if the body was kept else 0, body}.

local record = KEYS[1]
local fingerprint, token, lease_ms, retention, aside = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]

local held = redis.call('HMGET', record, 'fingerprint', 'token', 'lease', 'response', 'status', 'type', 'body')
local _, milliseconds = now()
if held[1] and aside ~= '*' then
  if held[1] ~= fingerprint then
    return { 'ok', 'reused' }
  end
  if held[5] then
    return { 'ok', 'answered', held[5], held[6], held[4] or '', held[7] and 1 or 0, held[7] or '' }
  end
  if held[2] == token then
    return { 'ok', 'mine' }
  end
  if tonumber(held[3]) > milliseconds then
    return { 'ok', 'running' }
  end
  if held[2] ~= aside then
    return { 'ok', 'lapsed', held[2], held[4] or '' }
  end
end
if retention == '0' then
  return { 'ok', 'free' }
end
redis.call('DEL', record)
redis.call('HSET', record, 'fingerprint', fingerprint, 'token', token, 'lease',
  string.format('%.0f', milliseconds + lease_ms))
redis.call('EXPIRE', record, retention)
return { 'ok', 'mine' }
