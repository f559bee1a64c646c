-- draw_jobs: give each ticket a job: the oldest of the owner whose turn it is, who then is the last in the row.
-- needs: layout
-- KEYS  queue, owners in turn, drawn jobs
-- ARGV  group, tickets…
-- Returns {'ok', {owner, job…}}: for each ticket an owner and its job (`ms:response`), the same however often it is asked.
-- Both are empty where nobody's job waits: the ticket is gone then. Whose jobs are touched is only found out here.

local queue, owners, drawn = KEYS[1], KEYS[2], KEYS[3]
local group = ARGV[1]
local first_ticket = 2

-- The next owner and its job; nothing where none waits.
local function draw()
  while true do
    local owner = redis.call('LPOP', owners)
    if not owner then
      return nil
    end
    local jobs = queue .. ':waiting:' .. owner
    local job = redis.call('LPOP', jobs)
    if job then
      if redis.call('LLEN', jobs) > 0 then
        redis.call('RPUSH', owners, owner)
      end
      return owner, job
    end
  end
end

local found = {}
for i = first_ticket, #ARGV do
  local ticket = ARGV[i]
  local known = redis.call('HGET', drawn, ticket)
  local owner, job
  if known then
    job, owner = string.match(known, '^(%S+) (.*)$')
  else
    owner, job = draw()
  end
  if not owner then
    redis.pcall('XACK', queue, group, ticket)
    redis.call('XDEL', queue, ticket)
  elseif not known then
    redis.call('HSET', drawn, ticket, job .. ' ' .. owner)
  end
  found[#found + 1] = owner or ''
  found[#found + 1] = job or ''
end
return { 'ok', found }
