"""The names of our keys. What comes from outside is percent-encoded, so that no id can reach into another's keys; the
hash tag is the conversation, so that everything one script touches lies in one slot."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote, unquote

from ..base import TaskRef


@lru_cache(maxsize=4096)
def quoted(text: str) -> str:
    """An id as it stands in a key, a field or a member."""
    return quote(text, safe="")


class Keys:
    """The keys under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.wakeups = f"{prefix}wakeups"
        self.counters = f"{prefix}counters:{{all}}"
        self.existing = f"{prefix}existing"

    def conversation(self, conversation_id: str) -> str:
        """The hash of a conversation; its scripts make every other key of that slot from it."""
        return f"{self.prefix}{{{quoted(conversation_id)}}}"

    def used(self, conversation_id: str, idempotency_key: str) -> str:
        """What an idempotency key has started: a task, its session, and until when that counts."""
        return f"{self.conversation(conversation_id)}:key:{quoted(idempotency_key)}"

    def session(self, session_id: str) -> str:
        """Where a session is found: its conversation."""
        return f"{self.prefix}session:{quoted(session_id)}"

    def task(self, task_id: str) -> str:
        """Where a task that was put in a queue is found: its session and its conversation."""
        return f"{self.prefix}task:{quoted(task_id)}"

    def namespace(self, namespace_id: str | None) -> str:
        """The live sessions of an owner; of None: of everyone. Beside it, in its slot, `…:activity`.

        Everyone's needs a tag too, one that nothing is quoted as: an empty one is none.
        """
        return f"{self.prefix}namespace:{{{quoted(namespace_id) if namespace_id else '*'}}}"

    def durations(self, type: str) -> str:
        """How long tasks of a type took."""
        return f"{self.prefix}durations:{quoted(type)}"

    def session_record(self, conversation_id: str, session_id: str) -> str:
        """The hash of a session, or the tombstone on it."""
        return f"{self.conversation(conversation_id)}:session:{quoted(session_id)}"

    def session_channel(self, conversation_id: str, session_id: str) -> str:
        """Where it is announced that a session got a task, or was deleted."""
        return self.session_record(conversation_id, session_id)

    def channel(self, ref: TaskRef) -> str:
        """Where a task's events, changes and end are announced."""
        return f"{self.conversation(ref.conversation_id)}:task:{quoted(ref.task_id)}"

    def cancel_channel(self, ref: TaskRef) -> str:
        """Where a task is asked to stop."""
        return f"{self.channel(ref)}:cancel"


def member(session_id: str, conversation_id: str) -> str:
    """A session as a member of its namespace, and as the place of a task."""
    return f"{quoted(session_id)} {quoted(conversation_id)}"


def place(member: str) -> tuple[str, str]:
    """The session and the conversation that a member, or a task's place, names."""
    session, conversation = member.split(" ")
    return unquote(session), unquote(conversation)
