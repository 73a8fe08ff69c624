-- Alone: without common.lua, since its key is no conversation's.
-- Adds what a process counted to what all processes counted; a repeated call of the same batch changes nothing.
-- KEYS[1]: the hash of the counters; beside it `<KEYS[1]>:<batch>` marks a batch as counted
-- ARGV: batch, how long its mark stands (ms), name and amount of each
-- Replies: HGETALL of the counters
local mark = KEYS[1] .. ':' .. ARGV[1]
if #ARGV > 2 and redis.call('SET', mark, '1', 'NX', 'PX', ARGV[2]) then
  for i = 3, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return redis.call('HGETALL', KEYS[1])
