-- Alone: without common.lua, since its key is no conversation's.
-- Takes a place for a session among the live sessions of its namespace, before the session is created.
-- KEYS[1]: the namespace's sorted set: members `<session> <conversation>`, scores: expiry in ms
-- ARGV: member, ttl (ms), maximum or 0; without a maximum it keeps the place that a session has
-- Replies: 1 | 0 when the namespace is full
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local member, ttl, maximum = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if maximum > 0 and not redis.call('ZSCORE', KEYS[1], member) and redis.call('ZCOUNT', KEYS[1], '(' .. now, '+inf') >= maximum then
  return 0
end
redis.call('ZADD', KEYS[1], now + ttl, member)
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
return 1
