-- keep_jobs: give a sign of life for entries, so that nobody takes them over.
-- needs: nothing
-- KEYS  queue
-- ARGV  group, worker, entries…
-- Returns {'ok'}.

local queue = KEYS[1]
local group, worker = ARGV[1], ARGV[2]
local first_entry = 3

redis.pcall('XCLAIM', queue, group, worker, 0, unpack(ARGV, first_entry, #ARGV), 'JUSTID')
return { 'ok' }
