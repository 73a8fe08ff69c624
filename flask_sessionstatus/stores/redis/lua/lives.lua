-- Whether a session lives, and for how long.
-- ARGV: session id
-- Replies: [what is left of it (ms), its last activity, its namespace or ''] | [] when there is no such session
local session = not is_deleted(session_key(ARGV[1])) and load_session(ARGV[1])
if not session then return {} end
return {digits(session.expires - NOW), digits(session.activity), session.ns or ''}
