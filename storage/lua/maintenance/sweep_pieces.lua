-- sweep_pieces: free the pieces of items that are gone.
-- needs: common
-- KEYS  partition
-- ARGV  none
-- Returns {'ok', how many were freed}. What lies in a partition without a living conversation expires.

if not is_kept() then
  return { 'ok', 0 }
end
return { 'ok', free_pieces(function(name, segment, offset)
  return parted(redis.call('LINDEX', segment_key(segment), offset) or '') ~= name
end) }
