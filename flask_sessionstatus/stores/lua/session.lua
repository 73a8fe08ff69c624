-- A session with its tasks.
-- ARGV: session id
-- Replies: [time, HGETALL of the conversation's hash, HGETALL of the session's hash]
return {redis.call('TIME'), redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', session_key(ARGV[1]))}
