-- A session with the tasks that a status read sees.
-- ARGV: session id
-- Replies: [time, its fields of the conversation's hash and their values (wherever its record lies),
--          HGETALL of the session's hash] | [] when there is no such session
local id = ARGV[1]
local session = not is_deleted(session_key(id)) and load_session(id)
if not session then return {} end
local fields = {'session:' .. id, cjson.encode(session)}
if apart[session_key(id)] then
  for _, task in ipairs(redis.call('ZREVRANGE', tasks_key(id), 0, 0)) do
    local text = look_up('task', task, task_key(task))
    if text then fields[3], fields[4] = 'task:' .. task, text end
  end
else
  local all, mine = redis.call('HGETALL', CONVERSATION), '"session":"' .. id .. '"'
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 5) == 'task:' and string.find(all[i + 1], mine, 1, true) then
      fields[#fields + 1], fields[#fields + 2] = all[i], all[i + 1]
    end
  end
end
return {redis.call('TIME'), fields, redis.call('HGETALL', session_key(id))}
