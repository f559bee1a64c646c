-- join_queue: make the queue's group if it is missing, and forget workers that are long gone.
-- KEYS  queue
-- ARGV  group, ms without a word after which a worker that has nothing is forgotten
-- Returns {'ok'}; where nothing was ever queued nothing is done. A worker that has entries is never forgotten: they
-- would be with it.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return { 'ok' }
end
redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0')
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #fields, 2 do
    consumer[fields[i]] = fields[i + 1]
  end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
  end
end
return { 'ok' }
