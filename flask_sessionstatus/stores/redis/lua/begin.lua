-- Opens a session (made if absent) and begins an attempt of a task in it; both in one step.
-- The same script re-creates both from an outbox's snapshot after the store lost them (the task then names its epoch),
-- and creates a session alone (the task's id is empty).
-- ARGV: session id, session as JSON {ns, key, created, socket, fields: [name, value, ...]}, task id,
--       task as JSON {type, wire, token, attempt, state, key, created, epoch, past, leased}, if_running,
--       ttl, lease, max age, max pending age, connect deadline (all ms), own ("1": the session must be this namespace's),
--       grace (ms), forgetful ("1": this server may have lost tasks that run)
-- Replies: ["begun", epoch, tail, session created, task created, [ids of tasks asked to stop], 1 if the session is new,
--          now, attempt, what is left of the session (ms), its last activity, its namespace or '', its key or '']
--          ["used", task id, session id] | ["running", task id, session id] | ["conflict"] | ["deleted"] | ["unknown"]
--          | ["fenced", task id, session id] | ["crowded"]: as many tasks live in the conversation as may
local session_id, task_id, if_running = ARGV[1], ARGV[3], ARGV[5]
local ttl, lease, max_age = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local max_pending_age, connect_deadline, own = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
local grace, forgetful = tonumber(ARGV[12]), ARGV[13]
local wanted = cjson.decode(ARGV[2])
local draft = task_id ~= '' and cjson.decode(ARGV[4]) or nil
local healing = draft and draft.epoch or wanted.created

local made = 0
local function begun(task, session, stopping)
  return {'begun', digits(task.epoch), digits(task.tail), digits(session.created), digits(task.created), stopping, made,
    digits(NOW), task.attempt or 0, digits(session.expires - NOW), digits(session.activity), session.ns or '',
    session.key or ''}
end

if is_deleted(session_key(session_id)) or (draft and is_deleted(task_key(task_id))) then return {'deleted'} end

local sessions, tasks, last_epoch, stowed = read_living(session_id, grace)
local session = sessions[session_id]
if session and NOW >= session.expires then session = nil end
if not session then session = load_session(session_id) end
if own == '1' and not healing then
  local first = first_of(sessions)
  if first and first.ns ~= wanted.ns then return {'conflict'} end
  if session and session.ns ~= wanted.ns then return {'conflict'} end
end
-- A session that has reached its maximum age is over, also for the writer that still holds it.
if not session and wanted.created and max_age > 0 and NOW >= wanted.created + max_age then return {'deleted'} end

local known = draft and load_task(task_id)
if known and not load_session(known.session) then known = nil end
if known then
  if known.session ~= session_id then return {'conflict'} end
  if known.token == draft.token then
    return begun(known, session, {})
  end
  if known.attempt >= draft.attempt then return {'fenced', task_id, session_id} end
end

local live = {}
if draft and not healing and not known then
  if draft.key then
    local text = redis.call('GET', used_key(draft.key))
    local ok, used = pcall(decode, text or '', 'key:', 'expires')
    if ok and counts(used, grace) then return {'used', used.task, used.session} end
  end
  for id, task in pairs(tasks) do
    local owner = sessions[task.session]
    if if_running ~= 'allow' and is_live(task, grace) and owner and NOW < owner.expires then
      if if_running == 'reject' then return {'running', id, task.session} end
      live[#live + 1] = id
    end
  end
  -- Who wants nothing started twice has to wait until the writers have healed what was lost.
  if forgetful == '1' and (draft.key or if_running ~= 'allow') then return {'unknown'} end
end

-- How many live, but for those that end with this step. What was lost and is made again is not refused for that.
if draft and not healing and not (known and is_live(known, grace)) then
  local count = 0
  for _, task in pairs(tasks) do
    local ends = if_running == 'replace' and not known and task.state == 'pending'
    local owner = sessions[task.session]
    if is_live(task, grace) and owner and NOW < owner.expires and not ends then count = count + 1 end
  end
  if count >= LIVE_TASKS then return {'crowded'} end
end

local oldest
if draft and session then
  oldest = in_the_way(session_id, task_id, grace)
  if oldest == false then return {'crowded'} end
end

if session and not draft then return begun({epoch = 0, tail = 0, created = 0}, session, {}) end

-- From here on it writes.
if session and healing and wanted.created and wanted.created < session.created then
  -- Two processes healed the same session; it belongs to the namespace that had it first.
  session.created, session.ns = wanted.created, wanted.ns
end
if not session then
  made = healing and 0 or 1
  session = {
    v = 1, ns = wanted.ns, key = wanted.key, created = wanted.created or NOW, expires = 0, activity = NOW,
    socket = wanted.socket,
  }
  clear(session_id, tasks, stowed)
  for i = 1, #wanted.fields, 2 do redis.call('HSET', session_key(session_id), wanted.fields[i], wanted.fields[i + 1]) end
  -- A hash without fields does not exist; this one marks when the session was made.
  redis.call('HSET', session_key(session_id), 'created', digits(session.created))
end

local stopping = {}
for _, id in ipairs(live) do
  local task = tasks[id]
  local owner = sessions[task.session]
  task.cancel = task.cancel or NOW
  if task.state == 'pending' and owner and NOW < owner.expires then
    force_end(id, task, owner, 'cancelled')
  else
    stopping[#stopping + 1] = id
    announce(id, task, task.tail, {})
  end
  redis.call('PUBLISH', task_key(id) .. ':cancel', digits(task.epoch))
end

if oldest then
  make_room(session_id, session, oldest, ttl)
  tasks[oldest.id] = nil
end
bring_session_back(session_id, session)
sessions[session_id], tasks[task_id] = session, nil
put_in_order(sessions, tasks, session_id, grace)

if not draft then
  local alive = wanted.socket and connect_deadline or ttl
  local left = slide(session_id, session, alive, max_age)
  save_session(session_id, session)
  keep(CONVERSATION, left)
  return begun({epoch = 0, tail = 0, created = 0}, session, {})
end

local epoch = draft.epoch or math.max(NOW, last_epoch + 1)
redis.call('HSET', CONVERSATION, 'lastEpoch', digits(math.max(epoch, last_epoch)))
local alive = draft.leased and lease or max_pending_age
local task = {
  v = 1, session = session_id, type = draft.type, wire = draft.wire, token = draft.token, state = draft.state,
  key = draft.key or (known and known.key) or nil,
  attempt = draft.attempt, epoch = epoch, tail = 0, created = known and known.created or draft.created or NOW,
  updated = NOW, activity = NOW, deadline = NOW + alive, renewed = NOW, past = draft.past,
}
if known then redis.call('HDEL', task_key(task_id), 'trace') end
if draft.state == 'running' then task.started = draft.started or NOW end
if not draft.leased then
  task.queued, task.healed, task.ticket = true, draft.epoch and true, NOW + alive
  if #stopping > 0 then task.replaces = stopping end
end
session.socket = nil
session.activity = NOW
-- Queued work that nobody takes up is seen to be lost before its session expires.
local left = slide(session_id, session, draft.leased and ttl or alive + ttl, max_age)
if task.attempt > 1 and not draft.epoch then tell_attempt(task_id, task, session) end
if draft.key then
  local used = cjson.encode({task = task_id, session = session_id, expires = session.expires})
  redis.call('SET', used_key(draft.key), used, 'PX', math.max(session.expires, task.deadline + lease) - NOW)
else
  keep_used(task_id, task, lease)
end
redis.call('ZADD', tasks_key(session_id), epoch, task_id)
keep(tasks_key(session_id), session.kept - NOW)
save_session(session_id, session)
announce(task_id, task, task.tail, {})
redis.call('PUBLISH', session_key(session_id), 'begun')
keep(CONVERSATION, left)
return begun(task, session, stopping)
