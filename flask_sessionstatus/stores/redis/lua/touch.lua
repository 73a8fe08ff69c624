-- Somebody is connected to the session: it lives for a TTL from now, whatever its connect deadline was. No activity.
-- ARGV: session id, ttl, max age (ms)
-- Replies: [what is left of the session (ms), its namespace or '', its last activity] | [] when there is no such session
local id, ttl, max_age = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local session = not is_deleted(session_key(id)) and load_session(id)
if not session then return {} end
session.socket = nil
local left = slide(id, session, ttl, max_age)
save_session(id, session)
return {digits(left), session.ns or '', digits(session.activity)}
