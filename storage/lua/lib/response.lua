-- response: what is true of every response.
-- needs: nothing

local function is_unfinished(status)
  return status == 'queued' or status == 'in_progress'
end
