-- A page of a task's stream after a cursor, with the task as it stands.
-- ARGV: session id, task id, cursor, limit (at most STEP count)
-- Replies: [now, record as JSON, cursor of the first event kept or '', [[id, fields], ...], namespace or ''] | [] when there is none | ["deleted"]
local session_id, id, after, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if is_deleted(task_key(id)) then return {'deleted'} end
local task = load_task(id)
local session = task and task.session == session_id and load_session(session_id)
if not session then return {} end
settle(id, task, session)
local first = redis.call('XRANGE', events_key(id), '-', '+', 'COUNT', 1)[1]
local page = limit > 0 and redis.call('XRANGE', events_key(id), '(' .. after, '+', 'COUNT', math.min(limit, STEP)) or {}
return {digits(NOW), cjson.encode(task), first and first[1] or '', page, session.ns or ''}
