-- Deletes a session for good: tombstones stand on it and on its tasks for as long as a late writer may come.
-- ARGV: session id, tombstone's life (ms)
-- Replies: 1, or 0 when there was none
local id, life = ARGV[1], tonumber(ARGV[2])
if is_deleted(session_key(id)) or not load_session(id) then return 0 end

local ids = redis.call('ZRANGE', tasks_key(id), 0, -1)
redis.call('DEL', session_key(id), turns_key(id), tasks_key(id))
redis.call('HSET', session_key(id), 'deleted', '1')
redis.call('PEXPIRE', session_key(id), life)
redis.call('HDEL', CONVERSATION, 'session:' .. id)
for _, task in ipairs(ids) do
  redis.call('DEL', task_key(task), events_key(task), result_key(task))
  redis.call('HSET', task_key(task), 'deleted', '1')
  redis.call('PEXPIRE', task_key(task), life)
  redis.call('HDEL', CONVERSATION, 'task:' .. task)
  redis.call('PUBLISH', task_key(task), 'deleted')
  redis.call('PUBLISH', task_key(task) .. ':cancel', 'deleted')
end
return 1
