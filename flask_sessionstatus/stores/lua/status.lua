-- What is known of a conversation, in one step.
-- Replies: [time, HGETALL of the conversation's hash]
return {redis.call('TIME'), redis.call('HGETALL', KEYS[1])}
