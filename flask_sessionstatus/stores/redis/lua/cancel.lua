-- Asks a task to stop. One that never started, or that nobody runs any more, ends at once.
-- ARGV: session id, task id
-- Replies: [record as JSON, now, namespace or ''] | [] when there is no such task
local session_id, id = ARGV[1], ARGV[2]
local session = not is_deleted(task_key(id)) and load_session(session_id)
if not session then return {} end
local task = load_task(id)
if not task or task.session ~= session_id then return {} end
if LIVE[task.state] then
  if not task.cancel then
    task.cancel = NOW
    task.updated = NOW
    task.activity = NOW
    save_task(id, task)
  end
  if task.state == 'pending' or NOW >= task.deadline then
    force_end(id, task, session, 'cancelled')
  else
    announce(id, task, task.tail, {})
  end
  redis.call('PUBLISH', task_key(id) .. ':cancel', cursor(task.epoch, 0))
end
return {cjson.encode(task), digits(NOW), session.ns or ''}
