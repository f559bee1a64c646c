-- import_appends: write journal entries and their responses. A response that is there already stays as it is.
-- KEYS  partition
-- ARGV  owner, fingerprint, life s, then for each: segment, end, id ('' = no response made it), model, pending,
--       status ('' = without its response), body, snapshot, context, output, the response's pending, created_at
-- Returns {'ok'} or {'conflict'}.

if not is_importing(ARGV[1], ARGV[2]) then
  return { 'conflict' }
end
local life = tonumber(ARGV[3])
for i = 4, #ARGV, 12 do
  local segment, stop, id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = BASE .. 'response:' .. id
  if id == '' then
    id = '@' .. segment .. ':' .. stop
  end
  redis.call('ZADD', BASE .. 'journal', position(segment, stop), id .. '\31' .. ARGV[i + 3] .. '\31' .. ARGV[i + 4])
  if ARGV[i + 5] ~= '' then
    if redis.call('EXISTS', key) == 0 then
      redis.call('HSET', key, 'importing', 1, 'status', ARGV[i + 5], 'body', ARGV[i + 6], 'snapshot', ARGV[i + 7],
        'context', ARGV[i + 8], 'output', ARGV[i + 9], 'pending', ARGV[i + 10], 'created_at', ARGV[i + 11])
      redis.call('HINCRBY', KEYS[1], 'responses', 1)
    end
    if redis.call('HEXISTS', key, 'importing') == 1 then
      extend(key, life)
    end
  end
end
extend(BASE .. 'journal', life)
return { 'ok' }
