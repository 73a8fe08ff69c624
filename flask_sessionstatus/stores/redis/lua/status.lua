-- Alone: without common.lua, whose set-up would cost more than this.
-- What is known of a conversation, in one step.
-- KEYS[1]: the conversation's hash
-- Replies: [time, HGETALL of the conversation's hash]
return {redis.call('TIME'), redis.call('HGETALL', KEYS[1])}
