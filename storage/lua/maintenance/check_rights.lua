-- check_rights: find out which of the commands that the scripts call this user may not run.
-- needs: nothing
-- KEYS  a key that nobody uses; it is there for a second, as a string, on which none of the commands does anything
-- ARGV  none
-- Returns {'ok', the names of the commands that are forbidden}.

local probe = KEYS[1]

local forbidden = {}
local function try(name, ...)
  local reply = redis.pcall(name, ...)
  local text = type(reply) == 'table' and reply.err
  if text and (string.find(text, 'NOPERM') or string.find(text, 'ACL failure')
    or string.find(text, "can't run this")) then
    forbidden[#forbidden + 1] = name
  end
end

try('SET', probe, '', 'PX', 1000)
if #forbidden > 0 then
  return { 'ok', forbidden }
end
for _, name in ipairs({ 'EXISTS', 'GET', 'HGETALL', 'LLEN', 'LPOP', 'MGET', 'PTTL', 'TTL', 'ZCARD' }) do
  try(name, probe)
end
for _, name in ipairs({ 'HDEL', 'HEXISTS', 'HGET', 'HMGET', 'LINDEX', 'LPUSH', 'RPUSH', 'XDEL', 'ZRANK',
  'ZREM', 'ZREVRANK', 'ZSCORE' }) do
  try(name, probe, '0-1')
end
for _, name in ipairs({ 'LRANGE', 'LTRIM', 'ZCOUNT', 'ZRANGE', 'ZRANGEBYSCORE', 'ZREMRANGEBYRANK', 'ZREMRANGEBYSCORE',
  'ZREVRANGE', 'ZREVRANGEBYSCORE' }) do
  try(name, probe, 0, 0)
end
try('HINCRBY', probe, 'field', 1)
try('HSCAN', probe, 0)
try('ZSCAN', probe, 0)
try('HSET', probe, 'field', '')
try('LREM', probe, 0, '')
try('LSET', probe, 0, '')
try('ZADD', probe, 0, '')
try('XADD', probe, '*', 'field', '')
try('XRANGE', probe, '-', '+')
try('XREVRANGE', probe, '+', '-')
try('XACK', probe, 'group', '0-1')
try('XAUTOCLAIM', probe, 'group', 'consumer', 0, '0-0')
try('XCLAIM', probe, 'group', 'consumer', 0, '0-1')
try('XGROUP', 'CREATE', probe, 'group', '0')
try('XINFO', 'CONSUMERS', probe, 'group')
try('XREAD', 'STREAMS', probe, '0-0')
try('XREADGROUP', 'GROUP', 'group', 'consumer', 'STREAMS', probe, '>')
try('TIME')
try('PERSIST', probe)
try('RENAME', probe, probe)
try('PEXPIREAT', probe, 1)
try('EXPIRE', probe, 1)
try('PEXPIRE', probe, 1000)
try('UNLINK', probe)
try('DEL', probe)
return { 'ok', forbidden }
