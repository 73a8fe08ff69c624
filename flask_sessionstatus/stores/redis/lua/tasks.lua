-- The records of a session's tasks, latest first.
-- ARGV: session id, limit (at most TASKS count), then the task's id when only one is wanted
-- Replies: [now, namespace or '', id, record as JSON, id, record, ...] | [] when there is no such session
local session_id, limit, only = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local session = not is_deleted(session_key(session_id)) and load_session(session_id)
if not session then return {} end
local ids = only and {only} or redis.call('ZREVRANGE', tasks_key(session_id), 0, math.min(limit, TASKS) - 1)
local reply = {digits(NOW), session.ns or ''}
for _, id in ipairs(ids) do
  local text = redis.call('HGET', CONVERSATION, 'task:' .. id) or redis.call('HGET', task_key(id), 'record')
  if text and not is_deleted(task_key(id)) then
    reply[#reply + 1] = id
    reply[#reply + 1] = text
  end
end
return reply
