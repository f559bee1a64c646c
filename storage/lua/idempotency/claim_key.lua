-- claim_key: become the one that carries out what an idempotency key stands for, or say how that stands.
-- KEYS  record
-- ARGV  fingerprint of the request, token, lease ms, retention s (0 = only look), token of the holder that is put
--       aside ('' = nobody's, '*' = whatever is there)
-- Returns {'ok', 'mine'}, {'ok', 'free'} (only looked), {'ok', 'reused'} for another fingerprint,
-- {'ok', 'running'}, {'ok', 'lapsed', holder's token, response id} when its lease is over,
-- {'ok', 'answered', status, content type, response id, 1 if the body was kept else 0, body}.

local held = redis.call('HMGET', KEYS[1], 'fingerprint', 'token', 'lease', 'response', 'status', 'type', 'body')
local time = redis.call('TIME')
local milliseconds = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if held[1] and ARGV[5] ~= '*' then
  if held[1] ~= ARGV[1] then
    return { 'ok', 'reused' }
  end
  if held[5] then
    return { 'ok', 'answered', held[5], held[6], held[4] or '', held[7] and 1 or 0, held[7] or '' }
  end
  if held[2] == ARGV[2] then
    return { 'ok', 'mine' }
  end
  if tonumber(held[3]) > milliseconds then
    return { 'ok', 'running' }
  end
  if held[2] ~= ARGV[5] then
    return { 'ok', 'lapsed', held[2], held[4] or '' }
  end
end
if ARGV[4] == '0' then
  return { 'ok', 'free' }
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'token', ARGV[2], 'lease',
  string.format('%.0f', milliseconds + tonumber(ARGV[3])))
redis.call('EXPIRE', KEYS[1], ARGV[4])
return { 'ok', 'mine' }
