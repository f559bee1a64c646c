-- export_appends: one page of a conversation's journal, with the responses that are still there. What these read is
-- kept while the export runs.
-- needs: common
-- KEYS  partition, conversation
-- ARGV  owner, conversation id, score to start from, entries of that score to skip, most entries, most bytes, hold s
-- Returns {'ok', {score, entry, status, body, snapshot, context, output, pending, created_at} or {score, entry}…} or
-- {'conversation_not_found'}. Nothing more: the journal is at its end.

local conversation_key = KEYS[2]
local owner, conversation_id, score, skipped = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local most, most_bytes, hold_seconds = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])

if not owned(owner) or not conversation_lives(conversation_key, conversation_id) then
  return { 'conversation_not_found' }
end
local _, milliseconds = now()
local reply, size = { 'ok' }, 0
local found = redis.call('ZRANGEBYSCORE', BASE .. 'journal', score, '+inf', 'WITHSCORES', 'LIMIT', skipped, most)
for i = 1, #found, 2 do
  if size >= most_bytes then
    break
  end
  local entry = { found[i + 1], found[i] }
  local fields = redis.call('HMGET', BASE .. 'response:' .. string.match(found[i], FIRST_FIELD),
    'status', 'body', 'snapshot', 'context', 'output', 'pending', 'created_at')
  if fields[1] then
    for j, value in ipairs(fields) do
      entry[2 + j] = value
    end
    size = size + #fields[2]
    for _, text in ipairs({ fields[4], fields[5] }) do
      for segment, to in pairs(reach_of(parse_chain(text))) do
        note_reach(segment, to, milliseconds + hold_seconds * 1000)
        if redis.call('TTL', segment_key(segment)) >= 0 then
          extend(segment_key(segment), hold_seconds)
          pieces_of(segment, function(key) extend(key, hold_seconds) end)
        end
      end
    end
  end
  reply[#reply + 1] = entry
end
return reply
