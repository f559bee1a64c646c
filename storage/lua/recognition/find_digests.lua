-- find_digests: what digests of histories lead to.
-- needs: nothing
-- KEYS  sorted sets of digests (all of one owner)
-- ARGV  most members of each that are told; then for each key a text: members that have it are told in any case ('' = no)
-- Returns {'ok', {member, score, member, score, …}, …}, highest score first, one list a key. Writes nothing.

local digests = KEYS
local most = tonumber(ARGV[1])
local texts_at = 1

local reply = { 'ok' }
for n, key in ipairs(digests) do
  local text = ARGV[texts_at + n]
  local found, told = redis.call('ZREVRANGE', key, 0, text == '' and most - 1 or -1, 'WITHSCORES'), {}
  for i = 1, #found, 2 do
    if i <= most * 2 or string.find(found[i], text, 1, true) then
      told[#told + 1], told[#told + 2] = found[i], found[i + 1]
    end
  end
  reply[#reply + 1] = told
end
return reply
