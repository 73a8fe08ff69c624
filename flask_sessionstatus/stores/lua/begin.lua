-- Opens a session (made if absent) and begins an attempt of a task in it; both in one step.
-- The same script re-creates both from an outbox's snapshot after the store lost them (the task then names its epoch),
-- and creates a session alone (the task's id is empty).
-- ARGV: session id, session as JSON {ns, created, socket, fields: [name, value, ...]}, task id,
--       task as JSON {type, wire, token, attempt, state, key, created, epoch, past, leased}, if_running,
--       ttl, lease, max age, max pending age, connect deadline (all ms), own ("1": the session must be this namespace's)
-- Replies: ["begun", epoch, tail, session created, task created, [ids of tasks asked to stop], 1 if the session is new]
--          ["used", task id, session id] | ["running", task id, session id] | ["conflict"] | ["deleted"] | ["fenced", task id, session id]
local session_id, task_id, if_running = ARGV[1], ARGV[3], ARGV[5]
local ttl, lease, max_age = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local max_pending_age, connect_deadline, own = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
local wanted = cjson.decode(ARGV[2])
local draft = task_id ~= '' and cjson.decode(ARGV[4]) or nil
local healing = draft and draft.epoch or wanted.created

local made = 0
local function begun(task, session, stopping)
  return {'begun', digits(task.epoch), digits(task.tail), digits(session.created), digits(task.created), stopping, made}
end

if is_deleted(session_key(session_id)) or (draft and is_deleted(task_key(task_id))) then return {'deleted'} end

local sessions, tasks, keys = {}, {}, {}
local fields = redis.call('HGETALL', CONVERSATION)
local last_epoch = 0
for i = 1, #fields, 2 do
  local kind, id = string.match(fields[i], '^(%a+):(.*)$')
  if fields[i] == 'lastEpoch' then last_epoch = tonumber(fields[i + 1])
  elseif kind == 'session' or kind == 'task' then
    local ok, record = pcall(decode, fields[i + 1], fields[i], kind == 'session' and 'expires' or 'deadline')
    if ok then (kind == 'session' and sessions or tasks)[id] = record
    elseif fields[i] == 'session:' .. session_id then error(record) end
  elseif kind == 'key' then
    local ok, used = pcall(decode, fields[i + 1], fields[i], 'expires')
    if ok then keys[id] = used end
  end
end

local session = sessions[session_id]
if session and NOW >= session.expires then session = nil end
if own == '1' and not healing then
  -- A conversation belongs to the namespace of its first live session.
  local first, first_id
  for id, other in pairs(sessions) do
    if NOW < other.expires and
      (not first or other.created < first.created or (other.created == first.created and id < first_id)) then
      first, first_id = other, id
    end
  end
  if first and first.ns ~= wanted.ns then return {'conflict'} end
  if session and session.ns ~= wanted.ns then return {'conflict'} end
end
-- A session that has reached its maximum age is over, also for the writer that still holds it.
if not session and wanted.created and max_age > 0 and NOW >= wanted.created + max_age then return {'deleted'} end

local known = draft and load_task(task_id)
local holder = known and sessions[known.session]
if known and (not holder or NOW >= holder.expires) then known = nil end
if known then
  if known.session ~= session_id then return {'conflict'} end
  if known.token == draft.token then
    return begun(known, session, {})
  end
  if known.attempt >= draft.attempt then return {'fenced', task_id, session_id} end
end

-- A key counts for a TTL, and as long as the task that it started runs.
local function counts(used)
  return NOW < used.expires or (tasks[used.task] and is_live(tasks[used.task]))
end

local stopping = {}
if draft and not healing and not known then
  if draft.key then
    local used = keys[draft.key]
    if used and counts(used) then return {'used', used.task, used.session} end
  end
  for id, task in pairs(tasks) do
    if is_live(task) and if_running ~= 'allow' then
      if if_running == 'reject' then return {'running', id, task.session} end
      stopping[#stopping + 1] = id
    end
  end
end

-- From here on it writes.
if session and healing and wanted.created and wanted.created < session.created then
  -- Two processes healed the same session; it belongs to the namespace that had it first.
  session.created, session.ns = wanted.created, wanted.ns
end
if not session then
  made = healing and 0 or 1
  session = {v = 1, ns = wanted.ns, created = wanted.created or NOW, expires = 0, activity = NOW}
  redis.call('DEL', session_key(session_id), turns_key(session_id), tasks_key(session_id))
  for i = 1, #wanted.fields, 2 do redis.call('HSET', session_key(session_id), wanted.fields[i], wanted.fields[i + 1]) end
  -- A hash without fields does not exist; this one marks when the session was made.
  redis.call('HSET', session_key(session_id), 'created', digits(session.created))
end

for id, other in pairs(sessions) do
  if NOW >= other.expires and id ~= session_id then redis.call('HDEL', CONVERSATION, 'session:' .. id) end
end
for id, task in pairs(tasks) do
  local owner = sessions[task.session]
  if not owner or NOW >= owner.expires then
    redis.call('HDEL', CONVERSATION, 'task:' .. id)
  elseif draft and task.session == session_id and id ~= task_id and not LIVE[task.state] then
    redis.call('HSET', task_key(id), 'record', cjson.encode(task))
    keep(task_key(id), math.max(ttl, (session.kept or 0) - NOW))
    redis.call('HDEL', CONVERSATION, 'task:' .. id)
    session.activity = math.max(session.activity, task.activity)
  end
end

for key, used in pairs(keys) do
  if not counts(used) then redis.call('HDEL', CONVERSATION, 'key:' .. key) end
end

for _, id in ipairs(stopping) do
  local task = tasks[id]
  task.cancel = task.cancel or NOW
  announce(id, task, task.tail, {})
  redis.call('PUBLISH', task_key(id) .. ':cancel', digits(task.epoch))
end

if not draft then
  local alive = wanted.socket and connect_deadline or ttl
  if wanted.socket then session.socket = true end
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
  attempt = draft.attempt, epoch = epoch, tail = 0, created = known and known.created or draft.created or NOW,
  updated = NOW, activity = NOW, deadline = NOW + alive, past = draft.past,
}
if draft.state == 'running' then task.started = draft.started or NOW end
session.socket = nil
session.activity = NOW
local left = slide(session_id, session, math.max(ttl, alive), max_age)
if task.attempt > 1 and not draft.epoch then
  task.tail = 1
  redis.call('XADD', events_key(task_id), cursor(epoch, 1), 't', 'attempt', 'd', cjson.encode({attempt = task.attempt}))
  keep(events_key(task_id), session.kept - NOW)
end
if draft.key then
  redis.call('HSET', CONVERSATION, 'key:' .. draft.key,
    cjson.encode({task = task_id, session = session_id, expires = session.expires}))
end
redis.call('ZADD', tasks_key(session_id), epoch, task_id)
keep(tasks_key(session_id), left)
save_session(session_id, session)
announce(task_id, task, task.tail, {})
keep(CONVERSATION, left)
return begun(task, session, stopping)
