-- import: imports of whole conversations, in any number of calls.
-- needs: common
--
-- An import writes segments with numbers of their own and whatever belongs to them, in any number of calls, and
-- nothing of it is seen before import_finish: the partition has no owner, or a conversation that is deleted. Until
-- then all of it expires. Field `importing` of the partition names the owner and the file, `import_base` the first of
-- the numbers and `import_size` how many there are. Every call can be repeated; the keys say what is there already.

local function claim(owner, fingerprint)
  return owner .. FIELD_BREAK .. fingerprint
end

-- Whether this import is the one that runs in the partition. Another file's may have taken its place.
local function is_importing(owner, fingerprint)
  return redis.call('HGET', PARTITION, 'importing') == claim(owner, fingerprint)
end

-- The owner whose import the field `importing` of a partition speaks of; nothing where there is none.
local function importer_of(importing)
  return importing and string.match(importing, '^(.*)' .. FIELD_BREAK)
end
