-- The traceback of a failed task.
-- ARGV: session id, task id
-- Replies: its text, or nothing
local session_id, id = ARGV[1], ARGV[2]
local task = not is_deleted(task_key(id)) and load_session(session_id) and load_task(id)
if not task or task.session ~= session_id then return false end
return redis.call('HGET', task_key(id), 'trace')
