-- enqueue_job: put a job at the end of the queue.
-- KEYS  queue
-- ARGV  group, id of the response, entry that it replaces ('' = none)
-- Returns {'ok'}.

if ARGV[3] ~= '' then
  redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[3])
  redis.call('XDEL', KEYS[1], ARGV[3])
end
redis.call('XADD', KEYS[1], '*', 'response', ARGV[2])
return { 'ok' }
