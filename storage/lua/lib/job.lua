-- job: responses that were accepted and run later.
-- needs: common, response
--
-- Such a response has a record from the moment it was accepted. Until it is terminal the record also has: token, the
-- right to run and to commit it; job, what it takes to run it (sealed); attempts; lease_until, ms, when nobody runs it
-- any more; lock, the branch lock that is kept for it; accepted_at, ms. `background` stays. Of a job that is more than one
-- command takes `job` is empty, a list `job:ID` has it in pieces, and job_pieces says how many, and of how many bytes.

-- A body begins like this: submit_response is given it so. What follows is never looked at.
local BODY = '^({"id":"[%w_-]+","object":"response","created_at":%d+,"status":")([%a_]+)(","error":)(null)(.*)$'

-- A body with another status; error: JSON.
local function restated(body, status, error)
  local head, _, between, _, rest = string.match(body, BODY)
  return head .. status .. between .. error .. rest
end

-- The key of the branch lock that is kept for an unfinished response, if it still is; else nil.
local function kept_lock(response_key)
  local fields = redis.call('HMGET', response_key, 'lock', 'token')
  local key = (fields[1] or '') ~= '' and BASE .. 'lock:' .. fields[1]
  return key and redis.call('GET', key) == fields[2] and key or nil
end

-- Gives a response to whoever has `token`, and the branch lock with it.
local function pass_on(response_key, token, lease_ms)
  local lock = kept_lock(response_key)
  if lock then
    redis.call('SET', lock, token, 'PX', lease_ms)
    local branch = BASE .. 'branch:' .. redis.call('HGET', response_key, 'lock')
    if redis.call('EXISTS', branch) == 1 then
      redis.call('HSET', branch, 'taken_by', token)
    end
  end
  redis.call('HSET', response_key, 'token', token)
end

-- The id in the name of a response's key.
local function id_of_key(response_key)
  return string.sub(response_key, string.len(BASE .. 'response:') + 1)
end

-- Ends an unfinished response without a commit; its branch lock is released, and whoever writes its log may do so no
-- more.
local function conclude(response_key, status, error)
  local lock = kept_lock(response_key)
  if lock then
    redis.call('DEL', lock)
  end
  local id = id_of_key(response_key)
  redis.call('UNLINK', BASE .. 'lock:~' .. id)
  local body = restated(redis.call('HGET', response_key, 'body'), status, error)
  redis.call('HSET', response_key, 'status', status, 'body', body)
  drop_job(response_key, BASE .. 'job:' .. id)
end
