-- import_branches: write branches that no name leads to yet.
-- KEYS  partition
-- ARGV  owner, fingerprint, life s, then for each branch: line, number of parts, field, value…, number of parts,
--       segment that it reads, how far…
-- Returns {'ok'} or {'conflict'}.

if not is_importing(ARGV[1], ARGV[2]) then
  return { 'conflict' }
end
local life, at = tonumber(ARGV[3]), 4
while at <= #ARGV do
  local line, parts = ARGV[at], tonumber(ARGV[at + 1])
  redis.call('HSET', branch_key(line), unpack(ARGV, at + 2, at + 1 + parts))
  extend(branch_key(line), life)
  at = at + 2 + parts
  parts = tonumber(ARGV[at])
  for i = at + 1, at + parts, 2 do
    redis.call('ZADD', holders_key(ARGV[i]), ARGV[i + 1], line)
    extend(holders_key(ARGV[i]), life)
  end
  at = at + 1 + parts
end
return { 'ok' }
