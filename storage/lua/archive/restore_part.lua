-- restore_part: write a part of a key of a backup.
-- needs: nothing
-- KEYS  key
-- ARGV  1 kind (hash, list, zset, stream)  2 when it expires (ms, 0 = never)  3 how much of a list comes before
--       4 … what it holds, as a backup has it: elements; field, value; member, score; id, number of texts, texts
-- Returns {'ok'}. Repeating it changes nothing: what is there already is not added again.

local key = KEYS[1]
local kind, expires_at, offset = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIRST = 4

local function position(id)
  local milliseconds, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(milliseconds), tonumber(number)
end

local function add_entries()
  local newest = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  local last, last_number = position(newest and newest[1] or '0-0')
  local at = FIRST
  while ARGV[at] do
    local id, stop = ARGV[at], at + 1 + tonumber(ARGV[at + 1])
    local this, this_number = position(id)
    if this > last or (this == last and this_number > last_number) then
      redis.call('XADD', key, id, unpack(ARGV, at + 2, stop))
    end
    at = stop + 1
  end
end

if kind == 'stream' then
  add_entries()
elseif kind == 'hash' then
  redis.call('HSET', key, unpack(ARGV, FIRST))
elseif kind == 'zset' then
  for at = FIRST, #ARGV, 2 do
    redis.call('ZADD', key, ARGV[at + 1], ARGV[at])
  end
elseif redis.call('LLEN', key) == offset then
  redis.call('RPUSH', key, unpack(ARGV, FIRST))
end
if expires_at ~= '0' then
  redis.call('PEXPIREAT', key, expires_at)
end
return { 'ok' }
