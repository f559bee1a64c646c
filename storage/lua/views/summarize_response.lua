-- summarize_response: what a list of responses shows of one.
-- needs: view
-- KEYS  partition, response
-- ARGV  owner, bytes of a body that is too long for that
-- Returns {'ok', status, body or '', {bytes, size} of the last item that the model was given, {bytes, size} of the last
-- that it answered ({} for none)}, or {'response_not_found'}. Writes nothing.

local response_key = KEYS[2]
local owner, most_bytes = ARGV[1], tonumber(ARGV[2])

local facts = owned(owner) and redis.call('HMGET', response_key, 'status', 'body', 'context', 'output') or {}
if not facts[1] then
  return { 'response_not_found' }
end
local function last_of(text)
  local chain = parse_chain(text or '')
  local last = chain[#chain]
  return last and excerpt(redis.call('LINDEX', segment_key(last[1]), last[3] - 1)) or {}
end
return { 'ok', facts[1], #facts[2] <= most_bytes and facts[2] or '', last_of(facts[3]), last_of(facts[4]) }
