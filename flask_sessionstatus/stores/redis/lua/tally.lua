-- Adds what a process counted of a session. No activity, and nothing lives longer for it.
-- ARGV: session id, writer, number of this tally among the writer's, then field and amount of each
-- Replies: 1 | 2 when it has too many counters for some of these | 0 when there is no such session
local id, writer, number = ARGV[1], ARGV[2], tonumber(ARGV[3])
local session = not is_deleted(session_key(id)) and load_session(id)
if not session then return 0 end
local key, last = session_key(id), session_key(id) .. ':tally:' .. writer
-- A call that was taken for lost may have got through.
if number <= tonumber(redis.call('GET', last) or 0) then return 1 end
redis.call('SET', last, digits(number), 'PX', session.expires - NOW)

local lost, counters = 0, nil
local function has_room(name)
  if string.sub(name, 1, 6) ~= 'count:' or redis.call('HEXISTS', key, name) == 1 then return true end
  if redis.call('HLEN', key) < COUNTERS then return true end
  counters = counters or count_names(key, {count = true})
  if counters >= COUNTERS then return false end
  counters = counters + 1
  return true
end

for i = 4, #ARGV, 2 do
  if has_room(ARGV[i]) then
    redis.call('HINCRBY', key, ARGV[i], ARGV[i + 1])
    if ARGV[i] == 'accesses' then redis.call('HSET', key, 'accessed', digits(NOW)) end
  else
    lost = lost + 1
  end
end
return lost > 0 and 2 or 1
