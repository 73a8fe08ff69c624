"""What a store has of a conversation."""

from __future__ import annotations

from flask_sessionstatus import Task
from flask_sessionstatus.stores import Store


def tasks(store: Store, conversation_id: str) -> list[Task]:
    """All its tasks, in the order in which they began."""
    found = [
        task for session_id in store.snapshot(conversation_id).sessions for task in store.tasks(session_id, 100) or ()
    ]
    return sorted(found, key=lambda task: task.epoch)
