-- Shared by every script; put before each by redis.py.
--
-- KEYS[1]  the conversation's hash, `<prefix>{<conversation>}`. Every other key is made from it, so that all a
--          script touches lies in one slot. Ids arrive percent-encoded.
-- Fields of that hash: `lastEpoch`, `session:<id>` and `task:<id>` (records as JSON: see codec.py), of a bounded number:
--          the most recent sessions, each with its live tasks and its latest one. The others are stowed away: their
--          records lie in the field `record` of the session's or the task's own hash, stowed sessions are the members
--          of `<conversation>:stowed` (scores: how recent) and `…:stowed:until` (scores: expiry in ms), and the field
--          `stowed` says that there are any. A task whose record is in the conversation's hash has its session there too.
-- The bounds (STEP, RECENT_SESSIONS, …) are those of bounds.py, put before this by calls.py.
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
local function used_key(key) return CONVERSATION .. ':key:' .. key end
local STOWED = CONVERSATION .. ':stowed'
local STOWED_UNTIL = CONVERSATION .. ':stowed:until'

-- A record that lacks `field`, or is none at all, is unreadable. The error ends in a log: there an id is cut short.
local function decode(text, name, field)
  local ok, value = pcall(cjson.decode, text)
  if not ok or type(value) ~= 'table' or not value[field] then error('UNREADABLE ' .. string.gsub(name, ':(.*)$', function(id) return ' ' .. string.sub(id, 1, 8) end)) end
  return value
end

local function is_deleted(key) return redis.call('HEXISTS', key, 'deleted') == 1 end

-- `grace` (ms) is how much longer an expired lease is taken as live: see calls.py.
local function is_live(task, grace) return LIVE[task.state] and NOW < task.deadline + (grace or 0) end

-- Where nothing says for how long leases could not be renewed, a task may live for one lease longer.
local function may_live(task, grace) return is_live(task, grace or task.deadline - (task.renewed or task.deadline)) end

local function digits(number) return string.format('%.0f', number) end

local function keep(key, ms)
  if redis.call('PTTL', key) < ms then redis.call('PEXPIRE', key, ms) end
end

-- What this script has found to be stowed away, by the key of its own hash.
local apart = {}

-- The text of a record, wherever it lies.
local function look_up(kind, id, key)
  local text = redis.call('HGET', CONVERSATION, kind .. ':' .. id)
  if text then return text end
  text = redis.call('HGET', key, 'record')
  if text then apart[key] = true end
  return text
end

local function load_session(id)
  local text = look_up('session', id, session_key(id))
  local session = text and decode(text, 'session:' .. id, 'expires')
  return session and NOW < session.expires and session or nil
end

-- A stowed session stays where it is until it has a task that lives.
local function save_session(id, session)
  if apart[session_key(id)] then redis.call('HSET', session_key(id), 'record', cjson.encode(session))
  else redis.call('HSET', CONVERSATION, 'session:' .. id, cjson.encode(session)) end
end

local tidy_up

local function unstow(id)
  redis.call('ZREM', STOWED, id)
  redis.call('ZREM', STOWED_UNTIL, id)
end

local function bring_session_back(id, session)
  if apart[session_key(id)] then
    redis.call('HDEL', session_key(id), 'record')
    unstow(id)
    apart[session_key(id)] = nil
    save_session(id, session)
  end
end

-- The latest task of a session that was brought back is what its status is made of.
local function bring_latest_back(session_id)
  local latest = redis.call('ZREVRANGE', tasks_key(session_id), 0, 0)[1]
  local text = latest and redis.call('HGET', task_key(latest), 'record')
  if not text then return end
  redis.call('HSET', CONVERSATION, 'task:' .. latest, text)
  redis.call('HDEL', task_key(latest), 'record')
  apart[task_key(latest)] = nil
end

local function save_task(id, task)
  local text, key = cjson.encode(task), task_key(id)
  if apart[key] and not is_live(task) then
    redis.call('HSET', key, 'record', text)
    local session = load_session(task.session)
    if session and task.activity > session.activity then
      session.activity = task.activity
      save_session(task.session, session)
    end
    return text
  end
  local new = redis.call('HSET', CONVERSATION, 'task:' .. id, text) == 1
  if apart[key] then
    redis.call('HDEL', key, 'record')
    apart[key] = nil
    local session = load_session(task.session)
    if session then
      bring_session_back(task.session, session)
      bring_latest_back(task.session)
    end
    if new and redis.call('HLEN', CONVERSATION) > RECENT_FIELDS + 8 then tidy_up() end
  end
  return text
end

-- A deadline that was set later than now is one of before the clock jumped back: it is one lease from now.
local function bound(id, task)
  if LIVE[task.state] and task.renewed and NOW < task.renewed then
    task.deadline = task.deadline + NOW - task.renewed
    task.renewed = NOW
    save_task(id, task)
  end
end

local function load_task(id)
  local text = look_up('task', id, task_key(id))
  local task = text and decode(text, 'task:' .. id, 'deadline') or nil
  if task then bound(id, task) end
  return task
end

-- A key counts for a TTL, and as long as the task that it started runs; with its session it is free again.
local function counts(used, grace)
  if is_deleted(session_key(used.session)) or not load_session(used.session) then return false end
  local task = NOW >= used.expires and load_task(used.task)
  return NOW < used.expires or (task and may_live(task, grace))
end

-- An idempotency key counts as long as the task that it started may live; that of a task which was lost until nothing was
-- known of its key any more counts again, unless it started another one meanwhile.
local function keep_used(id, task, lease)
  if not task.key then return end
  local key, life = used_key(task.key), task.deadline - NOW + lease
  local used = cjson.encode({task = id, session = task.session, expires = NOW})
  if not redis.call('SET', key, used, 'NX', 'PX', life) then keep(key, life) end
end

local function renew(id, task, lease)
  task.deadline = NOW + lease
  task.renewed = NOW
  keep_used(id, task, lease)
end

-- The number of the last event of this epoch: what the stream itself says.
local function tail_of(id, epoch)
  local last = redis.call('XREVRANGE', events_key(id), '+', '-', 'COUNT', 1)[1]
  if not last then return 0 end
  local at, number = string.match(last[1], '^(%d+)-(%d+)$')
  return tonumber(at) == epoch and tonumber(number) or 0
end

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
  if apart[session_key(id)] then
    redis.call('ZADD', STOWED_UNTIL, digits(session.expires), id)
    keep(STOWED, left)
    keep(STOWED_UNTIL, left)
  end
  if session.expires > (session.kept or 0) then
    session.kept = session.expires + ttl
    for _, task in ipairs(redis.call('ZREVRANGE', tasks_key(id), 0, TASKS - 1)) do keep_task(task, session) end
  end
  -- As long as what it names: from it is known what has to go before a session of this id is made anew.
  keep(tasks_key(id), session.kept - NOW)
  return left
end

-- How many fields of a session's hash are of some kinds: names before a colon.
local function count_names(key, kinds)
  local fields, count = redis.call('HGETALL', key), 0
  for i = 1, #fields, 2 do
    if kinds[string.match(fields[i], '^(%a+):') or ''] then count = count + 1 end
  end
  return count
end

local function unquote(id)
  return (string.gsub(id, '%%(%x%x)', function(code) return string.char(tonumber(code, 16)) end))
end

-- Ends a live task from outside: nobody runs it any more, or it never started.
local function force_end(id, task, session, state, error_type, error_message)
  task.tail = tail_of(id, task.epoch) + 1
  task.state = state
  task.forced = true
  task.error_type, task.error_message = error_type, error_message
  task.finished = NOW
  task.updated = NOW
  task.activity = NOW
  local data = cjson.encode({
    state = state, errorType = error_type or cjson.null, errorMessage = error_message or cjson.null, taskId = unquote(id),
  })
  redis.call('XADD', events_key(id), cursor(task.epoch, task.tail), 't', 'end', 'd', data)
  keep_task(id, session)
  announce(id, task, task.tail - 1, {'end', data})
end

-- A cancel that was asked for and a lease that ran out: the task is cancelled, and written so by whoever touches it next.
local function settle(id, task, session)
  if LIVE[task.state] and task.cancel and NOW >= task.deadline then force_end(id, task, session, 'cancelled') end
end

local function next_epoch()
  local epoch = math.max(NOW, tonumber(redis.call('HGET', CONVERSATION, 'lastEpoch') or 0) + 1)
  redis.call('HSET', CONVERSATION, 'lastEpoch', digits(epoch))
  return epoch
end

-- Gives a task an epoch of its own, without what its attempt before said of itself: see codec.py.
local function begin_anew(id, task)
  for _, name in ipairs({'started', 'finished', 'forced', 'queued', 'healed', 'current', 'total', 'note', 'remaining',
    'remaining_at', 'result', 'result_expires', 'error_type', 'error_message'}) do task[name] = nil end
  task.epoch, task.tail, task.updated, task.activity = next_epoch(), 0, NOW, NOW
  redis.call('DEL', result_key(id))
  redis.call('HDEL', task_key(id), 'trace')
  redis.call('ZADD', tasks_key(task.session), task.epoch, id)
end

-- Stores the first event of an attempt that is not the first one; returns it as announce takes it.
local function tell_attempt(id, task, session)
  local data = cjson.encode({attempt = task.attempt})
  task.tail = 1
  redis.call('XADD', events_key(id), cursor(task.epoch, 1), 't', 'attempt', 'd', data)
  keep(events_key(id), session.kept - NOW)
  return {'attempt', data}
end

-- Lets go of what is still kept of an earlier session of this id, so that it can be made anew; `tasks` is what the
-- conversation's hash holds, `stowed` whether some sessions are.
local function clear(session_id, tasks, stowed)
  for _, id in ipairs(redis.call('ZRANGE', tasks_key(session_id), 0, TASKS - 1)) do
    redis.call('UNLINK', task_key(id), events_key(id), result_key(id))
  end
  redis.call('UNLINK', session_key(session_id), turns_key(session_id), tasks_key(session_id))
  if stowed then unstow(session_id) end
  for id, task in pairs(tasks) do
    if task.session == session_id then
      redis.call('HDEL', CONVERSATION, 'task:' .. id)
      tasks[id] = nil
    end
  end
end

-- Keeps the last turns. Where the bound was lowered it takes several steps.
local function trim_turns(id, max_turns)
  local beyond = redis.call('LLEN', turns_key(id)) - max_turns
  if beyond > 0 then redis.call('LTRIM', turns_key(id), math.min(beyond, STEP), -1) end
end

-- Stows the record of a task away; its session takes over when it was last active.
local function stow_task(id, task, session)
  session.activity = math.max(session.activity, task.activity)
  redis.call('HSET', task_key(id), 'record', cjson.encode(task))
  keep(task_key(id), math.max(session.expires, session.kept or 0) - NOW)
  redis.call('HDEL', CONVERSATION, 'task:' .. id)
  apart[task_key(id)] = true
end

-- Stows a session away; `epoch` is that of its latest task, or 0. Stowed sessions stand in the order in which they are
-- recent: those without a task below the others. Two of those that have expired go.
local function stow_session(id, session, epoch)
  redis.call('HSET', session_key(id), 'record', cjson.encode(session))
  redis.call('HDEL', CONVERSATION, 'session:' .. id)
  redis.call('HSET', CONVERSATION, 'stowed', '1')
  apart[session_key(id)] = true
  for _, expired in ipairs(redis.call('ZRANGEBYSCORE', STOWED_UNTIL, '-inf', NOW, 'LIMIT', 0, 2)) do unstow(expired) end
  redis.call('ZADD', STOWED, digits(epoch > 0 and epoch or session.created - 1e13), id)
  redis.call('ZADD', STOWED_UNTIL, digits(session.expires), id)
  keep(STOWED, session.expires - NOW)
  keep(STOWED_UNTIL, session.expires - NOW)
end

-- What the conversation's hash holds, by id, and the last epoch. `wanted` is the id of a session that must be readable.
local function read_conversation(wanted)
  local sessions, tasks, last_epoch, stowed = {}, {}, 0, false
  local fields = redis.call('HGETALL', CONVERSATION)
  for i = 1, #fields, 2 do
    local kind, id = string.match(fields[i], '^(%a+):(.*)$')
    if fields[i] == 'lastEpoch' then last_epoch = tonumber(fields[i + 1])
    elseif fields[i] == 'stowed' then stowed = true
    elseif kind == 'session' or kind == 'task' then
      local ok, record = pcall(decode, fields[i + 1], fields[i], kind == 'session' and 'expires' or 'deadline')
      if ok then
        (kind == 'session' and sessions or tasks)[id] = record
        if kind == 'task' then bound(id, record) end
      elseif fields[i] == 'session:' .. (wanted or '') then error(record) end
    end
  end
  return sessions, tasks, last_epoch, stowed
end

-- Lets go of what has expired, and stows away what a status read need not see: of each session what has ended but for its
-- latest task, and, where there is too much, the idle sessions that are least recent. The one that the conversation belongs
-- to, its first, stays. `mine` is a session that gets a later task now, so that none of its ended ones is the latest. `grace`: see may_live.
local function put_in_order(sessions, tasks, mine, grace)
  local latest, lives, count = {}, {}, 0
  for id, session in pairs(sessions) do
    if NOW >= session.expires and id ~= mine then
      redis.call('HDEL', CONVERSATION, 'session:' .. id)
      sessions[id] = nil
    else count = count + 1 end
  end
  for id, task in pairs(tasks) do
    local owner = task.session
    if not sessions[owner] then
      redis.call('HDEL', CONVERSATION, 'task:' .. id)
      tasks[id] = nil
    else
      count = count + 1
      if not latest[owner] or task.epoch > tasks[latest[owner]].epoch then latest[owner] = id end
      if may_live(task, grace) then lives[owner] = true end
    end
  end
  local changed = {}
  for id, task in pairs(tasks) do
    local owner = task.session
    if not LIVE[task.state] and (latest[owner] ~= id or owner == mine) then
      stow_task(id, task, sessions[owner])
      tasks[id], changed[owner] = nil, true
      count = count - 1
    end
  end
  local order, first = {}, nil
  for id, session in pairs(sessions) do
    local epoch = id == mine and math.huge or latest[id] and tasks[latest[id]].epoch or 0
    order[#order + 1] = {id = id, live = lives[id] and 1 or 0, epoch = epoch, created = session.created}
    if not first or session.created < sessions[first].created or (session.created == sessions[first].created and id < first) then
      first = id
    end
  end
  if #order > RECENT_SESSIONS or count > RECENT_FIELDS then
    table.sort(order, function(a, b)
      if a.live ~= b.live then return a.live > b.live end
      if a.epoch ~= b.epoch then return a.epoch > b.epoch end
      if a.created ~= b.created then return a.created > b.created end
      return a.id > b.id
    end)
    local own = {}
    for id, task in pairs(tasks) do
      local list = own[task.session] or {}
      list[#list + 1] = {id = id, live = may_live(task, grace) and 1 or 0, epoch = task.epoch}
      own[task.session] = list
    end
    -- The first session stays, with one task; it takes no room from the others.
    local room, places = RECENT_FIELDS, RECENT_SESSIONS - 1
    for _, each in ipairs(order) do
      local id, session = each.id, sessions[each.id]
      local stays = each.id == first or each.id == mine or (room > 0 and (places > 0 or each.live == 1))
      if stays and each.id ~= first then room, places = room - 1, places - 1 end
      local list = own[id] or {}
      table.sort(list, function(a, b) return a.epoch > b.epoch end)
      for position, task in ipairs(list) do
        if stays and ((position == 1 and id == first) or ((position == 1 or task.live == 1) and room > 0)) then
          if not (position == 1 and id == first) then room = room - 1 end
        else
          stow_task(task.id, tasks[task.id], session)
          tasks[task.id], changed[id] = nil, true
        end
      end
      if not stays then
        stow_session(id, session, each.epoch)
        sessions[id], changed[id] = nil, nil
      end
    end
  end
  for id in pairs(changed) do
    if id ~= mine then save_session(id, sessions[id]) end
  end
end

function tidy_up()
  local sessions, tasks = read_conversation()
  put_in_order(sessions, tasks)
end

-- Where sessions have gone from the conversation's hash, the most recent of the stowed return, at most `count`, each
-- with its latest task. Where a number of those have expired, the ones that live longest return instead.
local function refill(count)
  local found = 0
  for round = 1, 3 do
    local ids = redis.call('ZREVRANGE', round < 3 and STOWED or STOWED_UNTIL, 0, count - found - 1)
    for _, id in ipairs(ids) do
      local ok, session = pcall(load_session, id)
      unstow(id)
      if ok and session then
        found = found + 1
        bring_session_back(id, session)
        bring_latest_back(id)
      end
    end
    if found == count or (round == 2 and found > 0) then break end
  end
  local last = redis.call('ZREVRANGE', STOWED_UNTIL, 0, 0, 'WITHSCORES')[2]
  if not last or tonumber(last) <= NOW then
    redis.call('UNLINK', STOWED, STOWED_UNTIL)
    redis.call('HDEL', CONVERSATION, 'stowed')
  end
end

-- For how many sessions, each with a task, there is room among those that live.
local function room_in(sessions, tasks)
  local living, fields = 0, 0
  for _, session in pairs(sessions) do
    if NOW < session.expires then living = living + 1 end
  end
  for _, task in pairs(tasks) do
    local owner = sessions[task.session]
    if owner and NOW < owner.expires then fields = fields + 1 end
  end
  return math.min(RECENT_SESSIONS - living, math.floor((RECENT_FIELDS - living - fields) / 2))
end

-- Stowed sessions join those that live in the conversation's hash, as far as there is room.
local function fill_up(sessions, tasks, grace)
  put_in_order(sessions, tasks, nil, grace)
  local room = room_in(sessions, tasks)
  if room > 0 then refill(room) end
end

-- As read_conversation; where there is room for stowed sessions, they return first.
local function read_living(wanted, grace)
  local sessions, tasks, last_epoch, stowed = read_conversation(wanted)
  if stowed and room_in(sessions, tasks) > 0 then
    fill_up(sessions, tasks, grace)
    sessions, tasks = read_conversation(wanted)
  end
  return sessions, tasks, last_epoch, stowed
end

-- The first of the sessions that live: the conversation belongs to its namespace.
local function first_of(sessions)
  local first, first_id
  for id, other in pairs(sessions) do
    if NOW < other.expires and
      (not first or other.created < first.created or (other.created == first.created and id < first_id)) then
      first, first_id = other, id
    end
  end
  return first
end

-- Lets go of all that is kept of a task: a tombstone stands for at least `life` ms, so that no late writer, and no ticket
-- that is still in a queue, brings it back.
local function bury(id, task, life)
  if task and task.ticket then life = math.max(life, task.ticket - NOW) end
  redis.call('UNLINK', events_key(id), result_key(id), task_key(id))
  redis.call('HSET', task_key(id), 'deleted', '1')
  redis.call('PEXPIRE', task_key(id), life)
  redis.call('HDEL', CONVERSATION, 'task:' .. id)
  redis.call('PUBLISH', task_key(id), 'deleted')
  redis.call('PUBLISH', task_key(id) .. ':cancel', 'deleted')
end

-- Of a session TASKS are kept: what has to go for one more, the oldest that does not live, as {id, task}. Nil when there
-- is room, false when all of them live.
local function in_the_way(session_id, id, grace)
  if redis.call('ZSCORE', tasks_key(session_id), id) or redis.call('ZCARD', tasks_key(session_id)) < TASKS then return nil end
  for _, other in ipairs(redis.call('ZRANGE', tasks_key(session_id), 0, TASKS - 1)) do
    local ok, task = pcall(load_task, other)
    if not (ok and task and is_live(task, grace)) then return {id = other, task = ok and task or nil} end
  end
  return false
end

local function make_room(session_id, session, oldest, life)
  if oldest.task then session.activity = math.max(session.activity, oldest.task.activity) end
  redis.call('ZREM', tasks_key(session_id), oldest.id)
  bury(oldest.id, oldest.task, life)
end
