-- import_appends: write journal entries and their responses. A response that is there already stays as it is.
-- needs: import
-- KEYS  partition
-- ARGV  owner, fingerprint, life s, then for each: segment, end, id ('' = no response made it), model, pending,
--       status ('' = without its response), body, snapshot, context, output, the response's pending, created_at
-- Returns {'ok'} or {'conflict'}.

local owner, fingerprint, life = ARGV[1], ARGV[2], tonumber(ARGV[3])
local first_append, append_width = 4, 12

if not is_importing(owner, fingerprint) then
  return { 'conflict' }
end
for i = first_append, #ARGV, append_width do
  local segment, stop, id, model, waiting, status, body, snapshot, context, output, pending, created_at =
    unpack(ARGV, i, i + append_width - 1)
  local key = BASE .. 'response:' .. id
  if id == '' then
    id = '@' .. segment .. ':' .. stop
  end
  redis.call('ZADD', BASE .. 'journal', position(segment, stop), id .. FIELD_BREAK .. model .. FIELD_BREAK .. waiting)
  if status ~= '' then
    if redis.call('EXISTS', key) == 0 then
      redis.call('HSET', key, 'importing', 1, 'status', status, 'body', body, 'snapshot', snapshot, 'context', context,
        'output', output, 'pending', pending, 'created_at', created_at)
      redis.call('HINCRBY', PARTITION, 'responses', 1)
    end
    if redis.call('HEXISTS', key, 'importing') == 1 then
      extend(key, life)
    end
  end
end
extend(BASE .. 'journal', life)
return { 'ok' }
