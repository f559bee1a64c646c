-- keep_jobs: give a sign of life for entries, so that nobody takes them over.
-- KEYS  queue
-- ARGV  group, worker, entries…
-- Returns {'ok'}.

redis.pcall('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ARGV, 3, #ARGV), 'JUSTID')
return { 'ok' }
