-- A page of a session's turns, oldest first.
-- ARGV: session id, position before which the page ends (-1: the end), limit (at most STEP count)
-- Replies: [position of the first, [turn, ...], when the session was made] | [] when there is no such session
local id, before, limit = ARGV[1], tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), STEP)
local session = not is_deleted(session_key(id)) and load_session(id)
if not session then return {} end
local created = digits(session.created)
local total = tonumber(redis.call('HGET', session_key(id), 'turns') or 0)
local first = total - redis.call('LLEN', turns_key(id))
local stop = before < 0 and total or math.min(before, total)
local start = math.max(first, stop - limit)
if stop <= start then return {start, {}, created} end
return {start, redis.call('LRANGE', turns_key(id), start - first, stop - first - 1), created}
