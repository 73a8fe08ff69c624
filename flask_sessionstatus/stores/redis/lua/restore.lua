-- Takes over a session as another store held it while this one was away: fields that were set or removed, and turns
-- with the times that they had. A repeated call changes nothing.
-- ARGV: session id, session as JSON {ns, key, created, activity, socket, left (ms until its expiry), now (where its times are
--       by another clock than this server's: what that one shows)}, max age (ms),
--       max turns, own ("1": it is made only where its conversation is nobody else's now), position of the first turn,
--       count of all its fields (0: it cannot be made from this), name and value of each, count of fields to set, name and value of each, count of names to remove, those names,
--       count of turns (at most 256), id, time and JSON of each
-- Replies: ["stored", what is left of it (ms), its last activity, its namespace or '', how many names of
--          metadata and slots were left out] | ["absent"]: send it whole
--          | ["conflict", namespace or '']: it is somebody else's | ["deleted"]
local id, wanted = ARGV[1], cjson.decode(ARGV[2])
local max_age, max_turns, own, position = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]

if wanted.now then
  -- Nobody may seem to have been here before the owner because a clock was behind.
  wanted.created, wanted.activity = wanted.created + NOW - wanted.now, wanted.activity + NOW - wanted.now
end
if is_deleted(session_key(id)) then return {'deleted'} end
local sessions, tasks, _, stowed = read_living(id)
local session = load_session(id)
if session and session.ns ~= wanted.ns then return {'conflict', session.ns or ''} end
if not session and ARGV[7] == '0' then return {'absent'} end
if not session and max_age > 0 and NOW >= wanted.created + max_age then return {'deleted'} end

-- Whenever it was made: who has the conversation now keeps it.
local first = not session and own == '1' and first_of(sessions)
if first and first.ns ~= wanted.ns then return {'conflict', ''} end

local at = 7
local function take()
  at = at + 1
  return ARGV[at - 1]
end

local fields, sets, removals, turns = {}, {}, {}, {}
for i = 1, tonumber(take()) do fields[i] = {take(), take()} end
for i = 1, tonumber(take()) do sets[i] = {take(), take()} end
for i = 1, tonumber(take()) do removals[i] = take() end
for i = 1, tonumber(take()) do turns[i] = {take(), take(), take()} end

local made = not session
if made then
  session = {v = 1, ns = wanted.ns, key = wanted.key, created = wanted.created, expires = 0, activity = wanted.activity, socket = wanted.socket}
  clear(id, tasks, stowed)
  redis.call('HSET', session_key(id), 'created', digits(session.created), 'turns', position)
  for _, pair in ipairs(fields) do redis.call('HSET', session_key(id), pair[1], pair[2]) end
end
for _, name in ipairs(removals) do redis.call('HDEL', session_key(id), name) end
-- Both stores may have got new names meanwhile: what is more than there may be is left out.
local room, left_out, kinds = math.huge, 0, {meta = true, slot = true}
if redis.call('HLEN', session_key(id)) + #sets > NAMES then room = NAMES - count_names(session_key(id), kinds) end
for _, pair in ipairs(sets) do
  local new = kinds[string.match(pair[1], '^(%a+):') or ''] and redis.call('HEXISTS', session_key(id), pair[1]) == 0
  if new then room = room - 1 end
  if new and room < 0 then left_out = left_out + 1
  else redis.call('HSET', session_key(id), pair[1], pair[2]) end
end
if #turns > 0 then
  local known = {}
  for _, text in ipairs(redis.call('LRANGE', turns_key(id), -STEP, -1)) do
    known[string.match(text, '^%d+ (%S+) ') or ''] = true
  end
  local added = 0
  for _, turn in ipairs(turns) do
    if not known[turn[1]] then
      redis.call('RPUSH', turns_key(id), turn[2] .. ' ' .. turn[1] .. ' ' .. turn[3])
      added = added + 1
    end
  end
  redis.call('HINCRBY', session_key(id), 'turns', added)
  trim_turns(id, max_turns)
end
if not wanted.socket then session.socket = nil end
-- One that was begun again here, by a call that was taken for lost, is as old as it was told.
session.created = math.min(session.created, wanted.created)
session.activity = math.max(session.activity, wanted.activity)
local left = slide(id, session, wanted.left, max_age)
save_session(id, session)
keep(CONVERSATION, left)
if made then tidy_up() end
return {'stored', digits(left), digits(session.activity), session.ns or '', left_out}
