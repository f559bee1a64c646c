-- identify_server: tell which process answers, so that a restart or a failover is noticed.
-- needs: nothing
-- KEYS  a key that nobody uses
-- ARGV  none
-- Returns {'ok', the server's run id, or '' where the user may not ask}.

local information = redis.pcall('INFO', 'server')
local found = type(information) == 'string' and string.match(information, 'run_id:(%w+)')
return { 'ok', found or '' }
