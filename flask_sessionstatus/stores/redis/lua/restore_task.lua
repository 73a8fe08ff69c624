-- Takes over a task as another store held it while this one was away: its events in order, then the record as it stood
-- with the last of them. A repeated call changes nothing; a newer attempt, an end and a tombstone here stay.
-- ARGV: session id, task id, record as JSON (see codec.py), what is left of its lease (ms), complete ("1": the record stands
--       behind these events), what the clock shows that its times are by ('': this server's), max events, result or '',
--       traceback or '', idempotency key or '', ttl (ms), cursor after which the events come, count of events (at most 500), then cursor, type and data of each
-- Replies: [verdict, cursor of the last event here]; verdict: stored | need (those after that cursor: this is another
--          server than the one that had more) | deleted | missing (no such session)
--          | fenced (a newer attempt, or another session's) | closed (it has ended)
local session_id, id, wanted, left = ARGV[1], ARGV[2], cjson.decode(ARGV[3]), tonumber(ARGV[4])
local ttl = tonumber(ARGV[11])
local complete, max_events, count = ARGV[5] == '1', tonumber(ARGV[7]), tonumber(ARGV[13])

if ARGV[6] ~= '' then  -- The epoch stays: clients have cursors of it.
  for _, name in ipairs({'created', 'updated', 'activity', 'started', 'finished', 'cancel', 'ticket', 'remaining_at',
    'result_expires'}) do
    if wanted[name] then wanted[name] = wanted[name] + NOW - tonumber(ARGV[6]) end
  end
end
if is_deleted(session_key(session_id)) or is_deleted(task_key(id)) then return {'deleted', '0-0'} end
local session, known = load_session(session_id), load_task(id)
if not session then return {'missing', '0-0'} end

local function last_event()
  local last = redis.call('XREVRANGE', events_key(id), '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

local function parts(at)
  local epoch, number = string.match(at, '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(number)
end

if known then
  local newer = known.attempt > wanted.attempt
  local rival = known.attempt == wanted.attempt and known.token ~= wanted.token and known.epoch >= wanted.epoch
  if known.session ~= session_id or newer or rival then return {'fenced', last_event()} end
end
local same = known and known.epoch == wanted.epoch
if same and not LIVE[known.state] and tail_of(id, known.epoch) >= known.tail then return {'closed', last_event()} end

if known and not same and known.attempt == wanted.attempt and known.token == wanted.token then
  -- This attempt was begun here by a call whose answer was lost: nobody ever used that epoch. What the store itself wrote
  -- in it goes, so that what follows is in order.
  local written, last = {}, '0-0'
  for _, event in ipairs(redis.call('XREVRANGE', events_key(id), '+', '-', 'COUNT', 8)) do
    if parts(event[1]) == known.epoch then written[#written + 1] = event[1]
    else
      last = event[1]
      break
    end
  end
  if last == '0-0' then redis.call('UNLINK', events_key(id))
  elseif #written > 0 then
    redis.call('XDEL', events_key(id), unpack(written))
    redis.call('XSETID', events_key(id), last)
  end
  redis.call('ZREM', tasks_key(session_id), id)
end

local epoch, number = parts(last_event())
local after_epoch, after_number = parts(ARGV[12])
if epoch < after_epoch or (epoch == after_epoch and number < after_number) then return {'need', last_event()} end
for i = 0, count - 1 do
  local at = 14 + 3 * i
  local its_epoch, its_number = parts(ARGV[at])
  if its_epoch > epoch or (its_epoch == epoch and its_number > number) then
    redis.call('XADD', events_key(id), 'MAXLEN', max_events, ARGV[at], 't', ARGV[at + 1], 'd', ARGV[at + 2])
    epoch, number = its_epoch, its_number
  end
end

local task = complete and wanted or (same and known) or wanted
local cancel = same and known.cancel or wanted.cancel
local told = cancel and not (same and known.cancel)
task.cancel = cancel
task.session = session_id
task.tail = tail_of(id, wanted.epoch)
if known then task.created = math.min(known.created, wanted.created) end
if same then task.started = known.started or wanted.started end
-- What is known of it here alone: memory knows nothing of how it began, nor of its progress, until that is told again.
if known then
  for _, name in ipairs({'key', 'past', 'ticket'}) do
    if task[name] == nil then task[name] = known[name] end
  end
  if known.ticket then task.ticket = math.max(task.ticket, known.ticket) end
end
if same then
  if task.remaining == nil then task.remaining, task.remaining_at = known.remaining, known.remaining_at end
  for _, name in ipairs({'current', 'total', 'note', 'replaces'}) do
    if task[name] == nil then task[name] = known[name] end
  end
end
if not complete then
  if not LIVE[task.state] then task.state, task.forced = 'running', nil end
  task.result, task.error_type, task.error_message, task.finished = nil, nil, nil, nil
end
if LIVE[task.state] then task.deadline, task.renewed = NOW + left, NOW end
if complete and ARGV[8] ~= '' then redis.call('SET', result_key(id), ARGV[8], 'PX', math.max(1, session.kept - NOW)) end
if complete and ARGV[9] ~= '' then redis.call('HSET', task_key(id), 'trace', ARGV[9]) end
if ARGV[10] ~= '' then
  local lives = math.max(session.expires - NOW, LIVE[task.state] and left or 0, 1)
  local ok, used = pcall(decode, redis.call('GET', used_key(ARGV[10])) or '', 'key:', 'expires')
  if not (ok and counts(used)) then
    redis.call('SET', used_key(ARGV[10]), cjson.encode({task = id, session = session_id, expires = session.expires}), 'PX', lives)
  end
  local known_key, holder = pcall(decode, redis.call('GET', used_key(ARGV[10])), 'key:', 'task')
  if known_key and holder.task == id then
    -- Its own: its beats prolong it.
    task.key = ARGV[10]
    keep(used_key(ARGV[10]), lives)
  end
end
local last_epoch = tonumber(redis.call('HGET', CONVERSATION, 'lastEpoch') or 0)
redis.call('HSET', CONVERSATION, 'lastEpoch', digits(math.max(wanted.epoch, last_epoch)))
local oldest = in_the_way(session_id, id, 0)
if oldest then make_room(session_id, session, oldest, ttl) end
redis.call('ZADD', tasks_key(session_id), digits(wanted.epoch), id)
session.activity = math.max(session.activity, task.activity)
local stays = session.expires - NOW
slide(session_id, session, stays, 0)
save_session(session_id, session)
keep_task(id, session)
-- Where its record goes, the session's has to be; and one with a later task is more recent.
local returns = apart[session_key(session_id)]
if returns then
  bring_session_back(session_id, session)
  bring_latest_back(session_id)
end
announce(id, task, task.tail, {})
if told then redis.call('PUBLISH', task_key(id) .. ':cancel', cursor(task.epoch, 0)) end
if not same then redis.call('PUBLISH', session_key(session_id), 'begun') end
if returns or redis.call('HLEN', CONVERSATION) > RECENT_FIELDS then tidy_up() end
return {'stored', last_event()}
