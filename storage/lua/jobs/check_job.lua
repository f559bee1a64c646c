-- check_job: tell whether a response still has to be run.
-- KEYS  response
-- ARGV  (none)
-- Returns {'ok', 1 if it is unfinished, else 0}. Writes nothing.

local status = redis.call('HGET', KEYS[1], 'status')
return { 'ok', (status == 'queued' or status == 'in_progress') and 1 or 0 }
