-- join_queue: make the queue's group if it is missing, and forget workers that are long gone.
-- needs: nothing
-- KEYS  queue
-- ARGV  group, ms without a word after which a worker that has nothing is forgotten
-- Returns {'ok'}; where nothing was ever queued nothing is done. A worker that has entries is never forgotten: they
-- would be with it.

local queue = KEYS[1]
local group, forgotten_ms = ARGV[1], tonumber(ARGV[2])

if redis.call('EXISTS', queue) == 0 then
  return { 'ok' }
end
redis.pcall('XGROUP', 'CREATE', queue, group, '0')
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', queue, group)) do
  local consumer = {}
  for i = 1, #fields, 2 do
    consumer[fields[i]] = fields[i + 1]
  end
  if consumer.pending == 0 and consumer.idle > forgotten_ms then
    redis.call('XGROUP', 'DELCONSUMER', queue, group, consumer.name)
  end
end
return { 'ok' }
