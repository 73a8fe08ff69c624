-- Renews the lease of a task that runs or waits here, and keeps its session alive. Never counts as activity.
-- ARGV: task id, attempt, epoch, lease, ttl, max age (ms)
-- Replies: as for append.lua; the number is the tail
local id, epoch = ARGV[1], tonumber(ARGV[3])
local lease, ttl, max_age = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local task = load_task(id)
if not task and is_deleted(task_key(id)) then return {'deleted', 0, 0} end
if not task or task.epoch < epoch then return {'missing', 0, 0} end
if task.epoch > epoch then return {'fenced', 0, 0} end
local session = load_session(task.session)
if not session then return {'missing', 0, 0} end
settle(id, task, session)
if task.forced then return {'closed', task.tail, task.cancel or 0} end
if LIVE[task.state] then
  renew(id, task, lease)
  save_task(id, task)
end
local left = slide(task.session, session, ttl, max_age)
save_session(task.session, session)
return {'stored', tail_of(id, epoch), task.cancel or 0, left, session.ns or '',
  digits(math.max(session.activity, task.activity))}
