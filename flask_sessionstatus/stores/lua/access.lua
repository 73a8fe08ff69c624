-- Counts how often a session was read. No activity, and nothing lives longer for it.
-- ARGV: session id, how often
-- Replies: 1, or 0 when there is no such session
local id, count = ARGV[1], ARGV[2]
if is_deleted(session_key(id)) or not load_session(id) then return 0 end
redis.call('HINCRBY', session_key(id), 'accesses', count)
redis.call('HSET', session_key(id), 'accessed', digits(NOW))
return 1
