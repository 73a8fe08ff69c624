-- Alone: without common.lua, since its key is no conversation's.
-- Removes members behind which there was no session, unless somebody has taken the place anew meanwhile.
-- KEYS[1]: the namespace's sorted set, as for reserve.lua
-- ARGV: members
-- Replies: [how many were removed, how many of them were past their expiry]
local RECENT = 30000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local active, unsure = KEYS[1] .. ':activity', KEYS[1] .. ':unsure'
local removed, expired = 0, 0
for _, member in ipairs(ARGV) do
  local expiry = tonumber(redis.call('ZSCORE', KEYS[1], member) or now + 1)
  local activity = tonumber(redis.call('ZSCORE', active, member) or 0)
  local taken = tonumber(redis.call('ZSCORE', unsure, member) or 0)
  if (expiry <= now or activity <= now - RECENT) and taken <= now - RECENT then
    redis.call('ZREM', active, member)
    redis.call('ZREM', unsure, member)
    removed = removed + redis.call('ZREM', KEYS[1], member)
    if expiry <= now then expired = expired + 1 end
  end
end
return {removed, expired}
