-- A session with its tasks.
-- ARGV: session id
-- Replies: [time, HGETALL of the conversation's hash, HGETALL of the session's hash] | [] when there is no such session
if is_deleted(session_key(ARGV[1])) or not load_session(ARGV[1]) then return {} end
return {redis.call('TIME'), redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', session_key(ARGV[1]))}
