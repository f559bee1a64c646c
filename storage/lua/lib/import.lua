-- Put before the scripts that import, after common.lua.
--
-- An import writes segments with numbers of their own and whatever belongs to them, in any number of calls, and
-- nothing of it is seen before import_finish: the partition has no owner, or a conversation that is deleted. Until
-- then all of it expires. Field `importing` of the partition names the owner and the file, `import_base` the first of
-- the numbers and `import_size` how many there are. Every call can be repeated; the keys say what is there already.

local function claim(owner, fingerprint)
  return owner .. '\31' .. fingerprint
end

-- Whether this import is the one that runs in the partition. Another file's may have taken its place.
local function is_importing(owner, fingerprint)
  return redis.call('HGET', KEYS[1], 'importing') == claim(owner, fingerprint)
end
