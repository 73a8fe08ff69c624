-- The result of a task.
-- ARGV: session id, task id
-- Replies: the result's text, or nothing
local session_id, id = ARGV[1], ARGV[2]
local task = not is_deleted(task_key(id)) and load_session(session_id) and load_task(id)
if not task or not task.result or task.session ~= session_id or (task.result_expires and NOW >= task.result_expires) then return false end
return redis.call('GET', result_key(id))
