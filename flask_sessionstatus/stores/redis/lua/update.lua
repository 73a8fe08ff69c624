-- Changes a session: fields of its hash are set or removed, turns are appended, as one step. A turn's id is '-' for none.
-- ARGV: session id, ttl, max age (ms), max turns, repeated ("1": an earlier call may have got through),
--       count of fields to set, name and value of each, count of names to remove, those names,
--       count of turns, id and JSON of each
-- Replies: [position of the first turn, its time, what is left of the session (ms), its namespace or '']
--          | [] when there is no such session | ["full"]: more names of metadata and slots than there may be
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
-- A call that is repeated, by this package or by the host, finds its turns; one that was held up on its way as well.
if turns[1] and turns[1][1] ~= '-' then
  local recent = redis.call('LRANGE', turns_key(id), repeated == '1' and -256 or -64, -1)
  for i, text in ipairs(recent) do
    local stamp, turn_id = string.match(text, '^(%d+) (%S+) ')
    if turn_id == turns[1][1] then return {total - #recent + i - 1, stamp, digits(session.expires - NOW), session.ns or ''} end
  end
end

-- Only near the bound are the names counted.
if #sets > 0 and redis.call('HLEN', session_key(id)) + #sets > NAMES then
  local counted, kinds = 0, {meta = true, slot = true}
  local function has(name) return redis.call('HEXISTS', session_key(id), name) end
  for _, pair in ipairs(sets) do
    if kinds[string.match(pair[1], '^(%a+):') or ''] then counted = counted + 1 - has(pair[1]) end
  end
  for _, name in ipairs(removals) do
    if kinds[string.match(name, '^(%a+):') or ''] then counted = counted - has(name) end
  end
  if counted > 0 and count_names(session_key(id), kinds) + counted > NAMES then return {'full'} end
end

for _, pair in ipairs(sets) do redis.call('HSET', session_key(id), pair[1], pair[2]) end
for _, name in ipairs(removals) do redis.call('HDEL', session_key(id), name) end
for _, turn in ipairs(turns) do
  redis.call('RPUSH', turns_key(id), digits(NOW) .. ' ' .. turn[1] .. ' ' .. turn[2])
end
if #turns > 0 then
  redis.call('HINCRBY', session_key(id), 'turns', #turns)
  trim_turns(id, max_turns)
  session.socket = nil
end
session.activity = NOW
-- Until somebody connects, or it has a turn or a task, a session made for a socket keeps its connect deadline.
local left = slide(id, session, session.socket and 0 or ttl, max_age)
save_session(id, session)
return {total, digits(NOW), digits(left), session.ns or ''}
