-- find_digests: what digests of histories lead to.
-- needs: nothing
-- KEYS  sorted sets of digests (all of one owner)
-- ARGV  1 most members of each that are told; then for each key, in pairs: a text that those have that are told; one for
--       which as many again are told that have it too ('' = none)
-- Returns {'ok', {member, score, member, score, …}, …}, highest score first, one list a key. Writes nothing.

local digests = KEYS
local most = tonumber(ARGV[1])
local texts_at, step = 2, 64

local reply = { 'ok' }
for n, key in ipairs(digests) do
  local kind, text = ARGV[texts_at + 2 * n - 2], ARGV[texts_at + 2 * n - 1]
  local told, any, named, from = {}, 0, text == '' and most or 0, 0
  repeat
    local found = redis.call('ZREVRANGE', key, from, from + step - 1, 'WITHSCORES')
    for i = 1, #found, 2 do
      local member = found[i]
      if string.find(member, kind, 1, true) then
        local is_named = named < most and string.find(member, text, 1, true)
        if is_named then
          named = named + 1
        elseif any < most then
          any = any + 1
          is_named = true
        end
        if is_named then
          told[#told + 1], told[#told + 2] = member, found[i + 1]
        end
      end
    end
    from = from + step
  until #found < 2 * step or (any >= most and named >= most)
  reply[#reply + 1] = told
end
return reply
