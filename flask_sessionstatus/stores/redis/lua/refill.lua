-- Puts the most recent of the stowed sessions back into the conversation's hash, as far as there is room.
-- Replies: 1
local sessions, tasks, _, stowed = read_conversation()
if stowed then fill_up(sessions, tasks) end
return 1
