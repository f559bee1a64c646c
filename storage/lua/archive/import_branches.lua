-- import_branches: write branches that no name leads to yet.
-- needs: import
-- KEYS  partition
-- ARGV  owner, fingerprint, life s, then for each branch: line, number of parts, field, value…, number of parts,
--       segment that it reads, how far…
-- Returns {'ok'} or {'conflict'}.

local owner, fingerprint, life = ARGV[1], ARGV[2], tonumber(ARGV[3])
local branches_at = 4

if not is_importing(owner, fingerprint) then
  return { 'conflict' }
end
local at = branches_at
while at <= #ARGV do
  local line = ARGV[at]
  local first, last, holds_at = list_at(at + 1, 1)
  redis.call('HSET', branch_key(line), unpack(ARGV, first, last))
  extend(branch_key(line), life)
  first, last, at = list_at(holds_at, 1)
  for i = first, last, 2 do
    local segment, to = ARGV[i], ARGV[i + 1]
    redis.call('ZADD', holders_key(segment), to, line)
    extend(holders_key(segment), life)
  end
end
return { 'ok' }
