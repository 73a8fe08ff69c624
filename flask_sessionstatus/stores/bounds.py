"""How much a store keeps of one conversation or session where each step would have to go through it, and how much one
step takes: the work of every step is bounded, whatever was stored before it."""

from __future__ import annotations

STEP = 256
"""The most sessions, tasks, turns, events or fields that one step, or one command to a server, goes through. An append,
and a step of handing over after an outage, take more: 500 or 256 KiB."""

RECENT_SESSIONS = 64
"""How many sessions of a conversation a status read sees, those with a live task included, the latest epoch first, then
the latest creation; and all with a live task, also where these are more. The others live on, each found by its id."""

LIVE_TASKS = 100
"""How many tasks of a conversation may be pending or running when another one is begun; beyond that ConversationFull is
raised. Attempts of tasks that failed, which a queue delivers again, are not refused: they come on top."""

TASKS = STEP
"""How many tasks of a session are kept; with each further one the oldest that is not live goes, with its events."""

NAMES = 160
"""How many names the metadata and the slots of a session have together."""

COUNTERS = 64
"""How many counters a session has; what is counted under a further name is not kept."""

RECENT_FIELDS = 240
"""How many sessions and tasks a status read sees, whatever comes together after a loss; what is left up to STEP is room
for what a step adds before they are put in order."""


def crowded() -> str:
    return f"The conversation has its maximum of {LIVE_TASKS} tasks that are pending or running."
