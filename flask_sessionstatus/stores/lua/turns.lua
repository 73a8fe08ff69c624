-- A page of a session's turns, oldest first.
-- ARGV: session id, position before which the page ends (-1: the end), limit
-- Replies: [position of the first, [turn, ...]] | [] when there is no such session
local id, before, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if is_deleted(session_key(id)) or not load_session(id) then return {} end
local total = tonumber(redis.call('HGET', session_key(id), 'turns') or 0)
local first = total - redis.call('LLEN', turns_key(id))
local stop = before < 0 and total or math.min(before, total)
local start = math.max(first, stop - limit)
if stop <= start then return {start, {}} end
return {start, redis.call('LRANGE', turns_key(id), start - first, stop - first - 1)}
