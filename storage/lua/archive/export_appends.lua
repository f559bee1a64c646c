-- export_appends: one page of a conversation's journal, with the responses that are still there. What these read is
-- kept while the export runs.
-- KEYS  partition, conversation
-- ARGV  owner, conversation id, score to start from, entries of that score to skip, most entries, most bytes, hold s
-- Returns {'ok', {score, entry, status, body, snapshot, context, output, pending, created_at} or {score, entry}…} or
-- {'conversation_not_found'}. Nothing more: the journal is at its end.

if not owned(ARGV[1]) or not conversation_lives(KEYS[2], ARGV[2]) then
  return { 'conversation_not_found' }
end
local _, milliseconds = now()
local reply, size = { 'ok' }, 0
local found = redis.call('ZRANGEBYSCORE', BASE .. 'journal', ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', ARGV[4], ARGV[5])
for i = 1, #found, 2 do
  if size >= tonumber(ARGV[6]) then
    break
  end
  local entry = { found[i + 1], found[i] }
  local fields = redis.call('HMGET', BASE .. 'response:' .. string.match(found[i], '^[^\31]*'),
    'status', 'body', 'snapshot', 'context', 'output', 'pending', 'created_at')
  if fields[1] then
    for j, value in ipairs(fields) do
      entry[2 + j] = value
    end
    size = size + #fields[2]
    for _, text in ipairs({ fields[4], fields[5] }) do
      for segment, to in pairs(reach_of(parse_chain(text))) do
        note_reach(segment, to, milliseconds + tonumber(ARGV[7]) * 1000)
        if redis.call('TTL', segment_key(segment)) >= 0 then
          extend(segment_key(segment), tonumber(ARGV[7]))
        end
      end
    end
  end
  reply[#reply + 1] = entry
end
return reply
