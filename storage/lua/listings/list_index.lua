-- list_index: a page of an owner's conversations, by activity.
-- needs: nothing
-- KEYS  sorted set
-- ARGV  'asc' or 'desc', number wanted, cursor id ('' = from the start), cursor score ('' = where the id is now)
-- Returns {'ok', {id, score, id, score, …}} or {'cursor_not_found', id}. Writes nothing.
-- A cursor with a score stays where the page ended even if its conversation has moved or is gone.

local key = KEYS[1]
local descending, wanted, id, score = ARGV[1] == 'desc', tonumber(ARGV[2]), ARGV[3], ARGV[4]

local range = descending and 'ZREVRANGE' or 'ZRANGE'
if id == '' then
  return { 'ok', redis.call(range, key, 0, wanted - 1, 'WITHSCORES') }
end
if score == '' then
  score = redis.call('ZSCORE', key, id)
  if not score then
    return { 'cursor_not_found', id }
  end
end
-- First rank behind the cursor's score, then past those of the same score that come before or are the cursor.
local rank
if descending then
  rank = redis.call('ZCOUNT', key, '(' .. score, '+inf')
else
  rank = redis.call('ZCOUNT', key, '-inf', '(' .. score)
end
while true do
  local peers = redis.call(range, key, rank, rank + 99, 'WITHSCORES')
  local passed = 0
  for i = 1, #peers, 2 do
    local before
    if descending then
      before = peers[i] >= id
    else
      before = peers[i] <= id
    end
    if tonumber(peers[i + 1]) == tonumber(score) and before then
      passed = passed + 1
    else
      return { 'ok', redis.call(range, key, rank + passed, rank + passed + wanted - 1, 'WITHSCORES') }
    end
  end
  if passed == 0 then
    return { 'ok', {} }
  end
  rank = rank + passed
end
