-- sweep_survey: which segments a sweep has to look at; forgets what is noted about segments that are gone.
-- needs: common
-- KEYS  partition
-- ARGV  first segment, how many
-- Returns {'ok', next segment or -1 after the last, notes dropped, segments to sweep…}: those that are there and that
-- no branch writes. A partition without a living conversation has none: it expires.

local first, count = tonumber(ARGV[1]), tonumber(ARGV[2])

if not is_kept() then
  return { 'ok', -1, 0 }
end
local _, milliseconds = now()
local unused = tonumber(redis.call('HGET', PARTITION, 'next_segment') or 0)

local function forget(segment)
  local dropped = 0
  for _, name in ipairs({ 'journal', 'tombstones' }) do
    dropped = dropped
      + redis.call('ZREMRANGEBYSCORE', BASE .. name, position(segment, 0), '(' .. position(segment + 1, 0))
  end
  local needed_until = string.match(redis.call('HGET', PARTITION, 'reach:' .. segment) or '', '^(%d+):')
  if needed_until and tonumber(needed_until) <= milliseconds then
    dropped = dropped + redis.call('HDEL', PARTITION, 'reach:' .. segment)
  end
  return dropped
end

local after = math.min(first + count, unused)
local reply = { 'ok', after < unused and after or -1, 0 }
for segment = first, after - 1 do
  if redis.call('EXISTS', branch_key(segment)) == 0 then
    if redis.call('EXISTS', segment_key(segment)) == 1 then
      reply[#reply + 1] = segment
    else
      reply[3] = reply[3] + forget(segment)
    end
  end
end
return reply
