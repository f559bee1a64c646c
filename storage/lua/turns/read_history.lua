-- read_history: more of a history that open_turn has begun to read.
-- needs: common
-- KEYS  partition
-- ARGV  owner, edition that the partition had then, what is left of the chain, bytes after which no more is read
-- Returns {'ok', items, left}: a list of items for each span, and what is still left of the chain, which goes on in the
-- last list; {'ok', 0} when something was taken from the partition since, {'ok', 1} when items are not there that are in
-- the chain. Writes nothing.

local owner, edition, chain, most_bytes = ARGV[1], ARGV[2], parse_chain(ARGV[3]), tonumber(ARGV[4])

local facts = redis.call('HMGET', PARTITION, 'owner', 'edition')
if facts[1] ~= owner or (facts[2] or '') ~= edition then
  return { 'ok', 0 }
end
local spans, left = read_spans(chain, most_bytes)
local missing = 0
for _, span in ipairs(chain) do
  missing = missing + span[3] - span[2]
end
for _, span in ipairs(parse_chain(left)) do
  missing = missing - (span[3] - span[2])
end
for _, items in ipairs(spans) do
  missing = missing - #items
end
if missing > 0 then
  return { 'ok', 1 }
end
return { 'ok', spans, left }
