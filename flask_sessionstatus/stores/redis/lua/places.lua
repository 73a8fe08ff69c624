-- Alone: without common.lua, since its key is no conversation's.
-- A stretch of a namespace's sessions, the latest activity first.
-- KEYS[1]: the namespace's sorted set, as for reserve.lua
-- ARGV: activity and member after which to go on ('' for the beginning), how many
-- Replies: [member, activity, member, activity, ...]
local active = KEYS[1] .. ':activity'
local after, member, count = ARGV[1], ARGV[2], tonumber(ARGV[3])
local first = 0
if after ~= '' then
  local score = redis.call('ZSCORE', active, member)
  if score and tonumber(score) == tonumber(after) then first = redis.call('ZREVRANK', active, member) + 1
  else first = redis.call('ZCOUNT', active, '(' .. after, '+inf') end
end
return redis.call('ZREVRANGE', active, first, first + count - 1, 'WITHSCORES')
