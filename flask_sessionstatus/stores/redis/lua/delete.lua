-- Deletes a session for good: tombstones stand on it and on its tasks for as long as a late writer may come.
-- ARGV: session id, tombstone's life (ms)
-- Replies: 1, or 0 when there was none
local id, life = ARGV[1], tonumber(ARGV[2])
if is_deleted(session_key(id)) or not load_session(id) then return 0 end

local ids, tasks = redis.call('ZRANGE', tasks_key(id), 0, TASKS - 1), {}
-- No ticket that is still in a queue may bring one of its tasks back.
for _, task in ipairs(ids) do
  local ok, record = pcall(load_task, task)
  if ok and record then tasks[task] = record end
  if ok and record and record.ticket then life = math.max(life, record.ticket - NOW) end
end
redis.call('UNLINK', session_key(id), turns_key(id), tasks_key(id))
redis.call('HSET', session_key(id), 'deleted', '1')
redis.call('PEXPIRE', session_key(id), life)
local in_sight = redis.call('HDEL', CONVERSATION, 'session:' .. id) == 1
unstow(id)
redis.call('PUBLISH', session_key(id), 'deleted')
for _, task in ipairs(ids) do bury(task, tasks[task], life) end
if in_sight and redis.call('HEXISTS', CONVERSATION, 'stowed') == 1 then refill(1) end
return 1
