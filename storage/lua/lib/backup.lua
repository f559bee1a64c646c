-- backup: keys of any kind as a backup has them.
-- needs: clock
--
-- Each kind has one command, so that nobody needs more rights than the other scripts do.

local WHOLE = {
  hash = function(key) return redis.call('HGETALL', key) end,
  list = function(key) return redis.call('LRANGE', key, 0, -1) end,
  zset = function(key) return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end,
}

-- Adds a key to the copies, if it is there: name, kind, when it expires (ms, 0 = never), and what it holds; `read` reads
-- it where that is not all.
local function copy_key(copies, key, name, kind, milliseconds, read)
  local left = redis.call('PTTL', key)
  if left == -2 then
    return
  end
  local expires_at = left == -1 and '0' or string.format('%.0f', milliseconds + left)
  copies[#copies + 1] = { name, kind, expires_at, (read or WHOLE[kind])(key) }
end
