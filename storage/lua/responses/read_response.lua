-- read_response: a stored response and its output items.
-- needs: common
-- KEYS  partition, response
-- ARGV  owner
-- Returns {'ok', body, {item bytes…}} or {'response_not_found'}. Writes nothing.

local response_key = KEYS[2]
local owner = ARGV[1]

local fields = owned(owner) and redis.call('HMGET', response_key, 'body', 'output')
if not fields or not fields[1] then
  return { 'response_not_found' }
end
local items = {}
for _, span in ipairs(parse_chain(fields[2])) do
  for _, item in ipairs(redis.call('LRANGE', segment_key(span[1]), span[2], span[3] - 1)) do
    if item ~= '' then
      items[#items + 1] = item
    end
  end
end
return { 'ok', fields[1], items }
