-- finish_job: take an entry out of the queue whose response is over.
-- KEYS  queue
-- ARGV  group, entry
-- Returns {'ok'}.

redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
return { 'ok' }
