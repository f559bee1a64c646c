-- check_job: tell whether a response still has to be run.
-- needs: response
-- KEYS  response
-- ARGV  (none)
-- Returns {'ok', 1 if it is unfinished, else 0}. Writes nothing.

local response_key = KEYS[1]

return { 'ok', is_unfinished(redis.call('HGET', response_key, 'status')) and 1 or 0 }
