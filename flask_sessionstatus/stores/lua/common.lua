-- Shared by every script; put before each by redis.py.
--
-- KEYS[1]  the conversation's hash, `<prefix>{<conversation>}`. Every other key is made from it, so that all a
--          script touches lies in one slot. Ids arrive percent-encoded.
-- Fields of that hash: `lastEpoch`, `session:<id>` and `task:<id>` (records as JSON: see codec.py),
--          `key:<idempotency key>` (task, session and expiry of the first task that used it).
redis.replicate_commands()

local CONVERSATION = KEYS[1]
local NOW = (function()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end)()

local MAX_BROUGHT = 16384
local LIVE = {pending = true, running = true}

local function session_key(id) return CONVERSATION .. ':session:' .. id end
local function task_key(id) return CONVERSATION .. ':task:' .. id end
local function events_key(id) return task_key(id) .. ':events' end
local function result_key(id) return task_key(id) .. ':result' end
local function turns_key(id) return session_key(id) .. ':turns' end
local function tasks_key(id) return session_key(id) .. ':tasks' end

-- A record that lacks `field`, or is none at all, is unreadable.
local function decode(text, name, field)
  local ok, value = pcall(cjson.decode, text)
  if not ok or type(value) ~= 'table' or not value[field] then error('UNREADABLE ' .. name) end
  return value
end

local function load_session(id)
  local text = redis.call('HGET', CONVERSATION, 'session:' .. id)
  local session = text and decode(text, 'session:' .. id, 'expires')
  return session and NOW < session.expires and session or nil
end

local function save_session(id, session)
  redis.call('HSET', CONVERSATION, 'session:' .. id, cjson.encode(session))
end

-- A task's record lies in the conversation's hash; once it ended and a later task began, in its own.
local function load_task(id)
  local text = redis.call('HGET', CONVERSATION, 'task:' .. id) or redis.call('HGET', task_key(id), 'record')
  return text and decode(text, 'task:' .. id, 'deadline') or nil
end

local function save_task(id, task)
  local text = cjson.encode(task)
  redis.call('HSET', CONVERSATION, 'task:' .. id, text)
  return text
end

local function is_deleted(key) return redis.call('HEXISTS', key, 'deleted') == 1 end

local function is_live(task) return LIVE[task.state] and NOW < task.deadline end

-- The number of the last event of this epoch: what the stream itself says.
local function tail_of(id, epoch)
  local last = redis.call('XREVRANGE', events_key(id), '+', '-', 'COUNT', 1)[1]
  if not last then return 0 end
  local at, number = string.match(last[1], '^(%d+)-(%d+)$')
  return tonumber(at) == epoch and tonumber(number) or 0
end

local function digits(number) return string.format('%.0f', number) end

local function cursor(epoch, number) return digits(epoch) .. '-' .. digits(number) end

-- Saves a task and wakes its followers: the message is the time, the record, the cursor before the events that it
-- brings, and these as `type, data, ...`, a line each (JSON has no raw line break). A large one says only the time:
-- then the log is read.
local function announce(id, task, base, events)
  local text = save_task(id, task)
  local brought = table.concat(events, '\n')
  local message = digits(NOW)
  if #brought <= MAX_BROUGHT then message = table.concat({message, text, cursor(task.epoch, base), brought}, '\n') end
  redis.call('PUBLISH', task_key(id), message)
end

local function keep(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

local function keep_task(id, session)
  local ms = session.kept - NOW
  keep(task_key(id), ms)
  keep(events_key(id), ms)
  keep(result_key(id), ms)
end

-- Slides the session's expiry to now + ttl (ms), not beyond max_age (ms, 0 for none), never backwards; returns what is left (ms).
-- `kept` is until when its tasks are kept at least: further than the expiry, so that they are seldom gone through.
local function slide(id, session, ttl, max_age)
  local expires = NOW + ttl
  if max_age > 0 then expires = math.min(expires, session.created + max_age) end
  session.expires = math.max(session.expires, expires)
  local left = session.expires - NOW
  keep(CONVERSATION, left)
  keep(session_key(id), left)
  keep(turns_key(id), left)
  keep(tasks_key(id), left)
  if session.expires > (session.kept or 0) then
    session.kept = session.expires + ttl
    for _, task in ipairs(redis.call('ZRANGE', tasks_key(id), 0, -1)) do keep_task(task, session) end
  end
  return left
end

local function unquote(id)
  return (string.gsub(id, '%%(%x%x)', function(code) return string.char(tonumber(code, 16)) end))
end

-- Ends a live task from the store's side: nobody runs it any more, or it never started.
local function force_end(id, task, session, state)
  task.tail = tail_of(id, task.epoch) + 1
  task.state = state
  task.forced = true
  task.finished = NOW
  task.updated = NOW
  task.activity = NOW
  local data = cjson.encode({state = state, errorType = cjson.null, errorMessage = cjson.null, taskId = unquote(id)})
  redis.call('XADD', events_key(id), cursor(task.epoch, task.tail), 't', 'end', 'd', data)
  keep_task(id, session)
  announce(id, task, task.tail - 1, {'end', data})
end

-- A cancel that was asked for and a lease that ran out: the task is cancelled, and written so by whoever touches it next.
local function settle(id, task, session)
  if LIVE[task.state] and task.cancel and NOW >= task.deadline then force_end(id, task, session, 'cancelled') end
end
