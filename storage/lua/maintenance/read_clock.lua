-- read_clock: the server's clock, which every time in the store is of.
-- needs: clock
-- KEYS  partition
-- ARGV  none
-- Returns {'ok', ms of Unix time}.

local _, milliseconds = now()
return { 'ok', milliseconds }
