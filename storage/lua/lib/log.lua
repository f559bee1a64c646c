-- log: logs of events; what writes one, and what is in pieces there.
-- needs: response
--
-- A log is a stream. Its first entry `0-1` has `owner` and `generation`; each other one is a batch: `events`, how many;
-- `frames`, their bytes; `last` in the last one. Its id is the number of the event that comes after it.
--
-- A batch that is more than one command takes has no frames in its entry. They are a part of a list beside the log, which
-- has those of all such batches in their order: `pieces` says `END:COUNT:SIZE`, where its pieces end in the list, how many
-- they are, and their bytes; each entry after it says where those before it end. What the list has behind the end that
-- the last entry says is about to be told by one, or never will be. It lives as long as the log.

-- Whether a writer may write: while the response is unfinished who has its token, afterwards whose lock it is. Without a
-- token only one process can write.
local function may_write(response_key, lock_key, token)
  if token == '' then
    return true
  end
  local accepted = redis.call('HMGET', response_key, 'status', 'token')
  local holder = is_unfinished(accepted[1]) and accepted[2] or redis.call('GET', lock_key)
  return accepted[1] and holder == token
end

-- What an entry says of its pieces: where they end in the list, how many there are, and of how many bytes; nil, if nothing.
local function pieces_in(entry)
  for at = 5, entry and #entry[2] or 0, 2 do
    if entry[2][at] == 'pieces' then
      local past, count, size = string.match(entry[2][at + 1], '(%d+):?(%d*):?(%d*)')
      return tonumber(past), tonumber(count), tonumber(size)
    end
  end
end

-- Where a log ends, or nothing where it has ended: number of the next event, its newest entry, end of the pieces in use.
local function end_of_log(log_key)
  local newest = redis.call('XREVRANGE', log_key, '+', '-', 'COUNT', 1)[1]
  local at = newest and tonumber(string.match(newest[1], '^%d+')) or 0
  if not newest or newest[2][5] ~= 'last' then
    return at, newest, pieces_in(newest) or 0
  end
end
