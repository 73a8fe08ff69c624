-- Appends events to a task's stream, changes its progress or state, and ends it: all in the order in which the work did it.
-- Everything is checked before the first write.
-- ARGV: task id, attempt, epoch, base, floor, count of events, change as JSON or '', end as JSON or '', result or '',
--       max events, ttl, lease, result ttl or 0, max age (ms), then type and data of each event
--   base:   the number before the first event;  floor: the oldest base that the outbox still holds
--   change: {state, current, total, note, remaining, ticket (ms for which one may come)};  end: {state, error_type, error_message, trace, wait, forced}:
--           `pending` leaves the task to its queue for at most `wait` ms; a forced end comes from another process
-- Replies: [verdict, number, cancel requested at or 0, what is left of the session (ms) or 0 if unchanged, its namespace or '',
--          its last activity];
--          verdict: deleted, missing, fenced, closed, need, stored
local id, attempt, epoch = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local base, floor, count = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local change, ending, result = ARGV[7], ARGV[8], ARGV[9]
local max_events, ttl, lease = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local result_ttl, max_age = tonumber(ARGV[13]), tonumber(ARGV[14])

local task = load_task(id)
if not task and is_deleted(task_key(id)) then
  keep(task_key(id), change ~= '' and cjson.decode(change).ticket or 0)
  return {'deleted', 0, 0}
end
if not task or task.epoch < epoch then return {'missing', 0, 0} end
if task.epoch > epoch then return {'fenced', 0, 0} end
local session = load_session(task.session)
if not session then return {'missing', 0, 0} end
settle(id, task, session)
if task.forced then return {'closed', task.tail, task.cancel or 0} end
local tail = tail_of(id, epoch)
if not LIVE[task.state] then
  if base + count <= tail then return {'stored', tail, task.cancel or 0} end
  if tail >= task.tail then return {'closed', tail, task.cancel or 0} end
end
if base > tail and base ~= floor then return {'need', tail, task.cancel or 0} end

local last = math.max(tail, base + count)
local skip = math.max(0, tail - base)
local brought, events, prefix = {}, events_key(id), digits(epoch) .. '-'
-- A log that is longer than it may be, since the bound was lowered, is trimmed a step at a time.
if last > tail then max_events = math.max(max_events, redis.call('XLEN', events) + 1 - STEP) end
for i = skip + 1, count do
  local at = 13 + 2 * i
  brought[#brought + 1] = ARGV[at]
  brought[#brought + 1] = ARGV[at + 1]
  redis.call('XADD', events, 'MAXLEN', max_events, prefix .. digits(base + i), 't', ARGV[at], 'd', ARGV[at + 1])
end
if last > tail then
  if tail == 0 then keep(events_key(id), session.kept - NOW) end
  task.activity = NOW
end
local left, namespace = 0, ''
local ended = ending ~= '' and LIVE[task.state] and cjson.decode(ending) or nil
task.tail = last
task.updated = NOW
if LIVE[task.state] then
  -- A run that appends is alive; a lease that had run out is taken up again. Queued work gets its first lease here.
  if change ~= '' or last > tail then renew(id, task, lease) end
  if change ~= '' then
    local wanted = cjson.decode(change)
    if wanted.state and wanted.state ~= task.state then
      task.state = wanted.state
      task.activity = NOW
      if wanted.state == 'running' then task.started, task.queued = task.started or NOW, nil end
    end
    for _, name in ipairs({'current', 'total', 'note'}) do
      if wanted[name] ~= nil then task[name] = wanted[name] end
    end
    if wanted.ticket then task.ticket = math.max(task.ticket or 0, NOW + wanted.ticket) end
    if wanted.remaining ~= nil then
      task.remaining = wanted.remaining
      task.remaining_at = NOW
    end
  end
  if ended then
    if ended.state ~= 'pending' and not ended.forced then
      task.state = ended.state
      task.error_type = ended.error_type
      task.error_message = ended.error_message
      task.finished = NOW
      task.started = task.started or NOW
    end
    task.activity = NOW
    if result ~= '' then
      task.result = true
      if result_ttl > 0 then task.result_expires = NOW + result_ttl end
      redis.call('SET', result_key(id), result, 'PX', session.kept - NOW)
    end
    if ended.trace then
      redis.call('HSET', task_key(id), 'trace', ended.trace)
      keep(task_key(id), session.kept - NOW)
    end
    left, namespace = slide(task.session, session, ttl + (ended.wait or 0), max_age), session.ns or ''
    save_session(task.session, session)
  end
end
announce(id, task, base + skip, brought)
if ended and ended.forced then
  force_end(id, task, session, ended.state, ended.error_type, ended.error_message)
elseif ended and ended.state == 'pending' and task.cancel then
  force_end(id, task, session, 'cancelled')
elseif ended and ended.state == 'pending' then
  begin_anew(id, task)
  task.state, task.attempt, task.queued = 'pending', task.attempt + 1, true
  task.deadline, task.renewed, task.ticket = NOW + ended.wait, NOW, math.max(task.ticket or 0, NOW + ended.wait)
  keep_used(id, task, lease)
  announce(id, task, 0, {})
end
return {'stored', last, task.cancel or 0, left, namespace, digits(NOW)}
