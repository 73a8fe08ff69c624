-- Changes a session: fields of its hash are set or removed, turns are appended, as one step.
-- ARGV: session id, ttl, max age (ms), max turns, repeated ("1": an earlier call may have got through),
--       count of fields to set, name and value of each, count of names to remove, those names,
--       count of turns, id and JSON of each
-- Replies: [position of the first turn, its time, what is left of the session (ms), its namespace or ''] | [] when there is no such session
local id, ttl, max_age, max_turns, repeated = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local session = not is_deleted(session_key(id)) and load_session(id) or nil
if not session then return {} end

local at = 6
local function take()
  at = at + 1
  return ARGV[at - 1]
end

local sets, removals, turns = {}, {}, {}
for i = 1, tonumber(take()) do sets[i] = {take(), take()} end
for i = 1, tonumber(take()) do removals[i] = take() end
for i = 1, tonumber(take()) do turns[i] = {take(), take()} end

local total = tonumber(redis.call('HGET', session_key(id), 'turns') or 0)
if repeated == '1' and turns[1] then
  local recent = redis.call('LRANGE', turns_key(id), -256, -1)
  for i, text in ipairs(recent) do
    local stamp, turn_id = string.match(text, '^(%d+) (%S+) ')
    if turn_id == turns[1][1] then return {total - #recent + i - 1, stamp, digits(session.expires - NOW), session.ns or ''} end
  end
end

for _, pair in ipairs(sets) do redis.call('HSET', session_key(id), pair[1], pair[2]) end
for _, name in ipairs(removals) do redis.call('HDEL', session_key(id), name) end
for _, turn in ipairs(turns) do
  redis.call('RPUSH', turns_key(id), digits(NOW) .. ' ' .. turn[1] .. ' ' .. turn[2])
end
if #turns > 0 then
  redis.call('HINCRBY', session_key(id), 'turns', #turns)
  redis.call('LTRIM', turns_key(id), -max_turns, -1)
  session.socket = nil
end
session.activity = NOW
local left = slide(id, session, ttl, max_age)
save_session(id, session)
return {total, digits(NOW), digits(left), session.ns or ''}
