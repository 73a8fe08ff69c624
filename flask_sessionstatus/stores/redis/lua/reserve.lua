-- Alone: without common.lua, since its key is no conversation's.
-- Takes a place for a session among the live sessions of its namespace, before the session is created, or keeps it.
-- KEYS[1]: the namespace's sorted set: members `<session> <conversation>`, scores: expiry in ms;
--          beside it `<KEYS[1]>:activity`, scores: last activity in ms,
--          and `<KEYS[1]>:unsure`: members whose session may not be there, scores: since when, in ms
-- ARGV: member, ttl (ms), last activity (ms, '' when unknown: now for a new member), maximum or 0,
--       which turn it is for those without recent activity
-- Replies: [1, members that are past their expiry, at most 16]
--          | [0, members to look at, at most 224, ms until the first place is past its expiry, how many of them are suspect]:
--            full, unless some of these have no session behind them: those that are past their expiry, those of which it
--            is not sure, and some of those without recent activity, others at each turn
local RECENT = 30000
local PAST, UNSURE, IDLE = 96, 64, 64
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local member, ttl, activity = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local maximum, turn = tonumber(ARGV[4]), tonumber(ARGV[5])
local active, unsure = KEYS[1] .. ':activity', KEYS[1] .. ':unsure'

local known = redis.call('ZSCORE', KEYS[1], member)
if maximum > 0 and not known and redis.call('ZCARD', KEYS[1]) >= maximum then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
  local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, PAST)
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', unsure, '-inf', now - RECENT, 'LIMIT', 0, UNSURE)) do
    members[#members + 1] = each
  end
  local suspect = #members
  local idle = redis.call('ZCOUNT', active, '-inf', now - RECENT)
  if idle > 0 then
    local from = turn % math.ceil(idle / IDLE) * IDLE
    for _, each in ipairs(redis.call('ZRANGE', active, from, math.min(from + IDLE, idle) - 1)) do
      members[#members + 1] = each
    end
  end
  return {0, members, math.max(0, first - now), suspect}
end
redis.call('ZADD', KEYS[1], 'GT', now + ttl, member)
-- A place that is past its expiry is taken anew: whoever finds no session behind it yet must not take it away.
if activity or not known or tonumber(known) <= now then redis.call('ZADD', active, 'GT', activity or now, member) end
-- Until the session was seen, nobody can be sure of it.
if activity then redis.call('ZREM', unsure, member)
elseif maximum > 0 then redis.call('ZADD', unsure, now, member) end
for _, key in ipairs({KEYS[1], active, unsure}) do
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end
return {1, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 16)}
