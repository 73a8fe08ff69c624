-- Begins the attempt of a task that waits in a queue: it runs from now on, under a lease and in an epoch of its own. A
-- task whose lease is over, or whose last attempt failed, gets a new attempt.
-- ARGV: session id, task id, token of the worker, lease, grace (how much longer an expired lease counts), ttl, max age (all ms),
--       "1" to begin nothing: only what the worker has claimed already is answered
-- Replies: ["claimed", epoch, tail, session created, task created, now, attempt, [ids of tasks that have to stop first],
--           what is left of the session (ms), its last activity, its namespace or '', its key or '']
--          ["refused", record as JSON, now, namespace or ''] | ["deleted"] | [] when there is none
--          Nothing is refused where nothing is to begin: that is [] as well.
local session_id, id, token = ARGV[1], ARGV[2], ARGV[3]
local lease, grace, ttl, max_age = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local only_look = ARGV[8] == '1'

if is_deleted(session_key(session_id)) or is_deleted(task_key(id)) then return {'deleted'} end
local session, task = load_session(session_id), load_task(id)
if not session or not task or task.session ~= session_id then return {} end
settle(id, task, session)

local function may_be_claimed()
  if task.state == 'error' then return not task.cancel end
  return LIVE[task.state] and (task.queued or NOW >= task.deadline + grace)
end

local held = task.token == token and LIVE[task.state] and not task.queued
if not held and only_look then return {} end
if not held and not may_be_claimed() then
  return {'refused', cjson.encode(task), digits(NOW), session.ns or ''}
end

local stopping = {}
for _, other_id in ipairs(task.replaces or {}) do
  local other = load_task(other_id)
  if other and is_live(other, grace) then stopping[#stopping + 1] = other_id end
end

local left = session.expires - NOW
if not held then
  if not task.queued then task.attempt = task.attempt + 1 end
  local told = task.attempt > 1 or task.healed
  begin_anew(id, task)
  task.token = token
  renew(id, task, lease)
  if #stopping > 0 then task.state = 'pending' else task.state, task.started = 'running', NOW end
  session.activity = NOW
  left = slide(session_id, session, ttl, max_age)
  save_session(session_id, session)
  local events = {}
  if told then events = tell_attempt(id, task, session) end
  announce(id, task, 0, events)
  redis.call('PUBLISH', session_key(session_id), 'begun')
end
return {'claimed', digits(task.epoch), digits(task.tail), digits(session.created), digits(task.created), digits(NOW),
  task.attempt, stopping, digits(left), digits(session.activity), session.ns or '', session.key or ''}
