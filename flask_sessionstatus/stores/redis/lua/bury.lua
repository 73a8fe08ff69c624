-- Sees to it that a session that was deleted while this store was away stays so: a tombstone on it, and on those of its
-- tasks that are named. What is still there of it was deleted before: see delete.lua.
-- ARGV: session id, tombstone's life (ms), spare ("1": what lives here under these ids is somebody else's, and stays),
--       task ids (at most 256)
-- Replies: 1
local life = tonumber(ARGV[2])
local function bury(key)
  redis.call('HSET', key, 'deleted', '1')
  keep(key, life)
end
local spare = ARGV[3] == '1'
if not (spare and load_session(ARGV[1])) then bury(session_key(ARGV[1])) end
for i = 4, #ARGV do
  if not (spare and load_task(ARGV[i])) then bury(task_key(ARGV[i])) end
end
return 1
