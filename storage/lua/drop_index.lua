-- drop_index: take a conversation out of its owner's listings.
-- KEYS  sorted sets (all of one owner)
-- ARGV  conversation id
-- Returns {'ok'}.

for _, key in ipairs(KEYS) do
  redis.call('ZREM', key, ARGV[1])
end
return { 'ok' }
