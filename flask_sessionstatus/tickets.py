"""The ticket of a task that waits in a queue: it travels in the queue's message, as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from .errors import InvalidValue
from .models import check_event_type, check_id, namespace_of, to_json
from .stores.base import SessionDraft, TaskDraft
from .streaming.frames import WIRES

VERSION = 1


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15


_CHECKS: Mapping[str, Callable[[object], bool]] = {
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "int": _is_number,
    "int | None": lambda value: value is None or _is_number(value),
    "bool": lambda value: isinstance(value, bool),
    "Mapping[str, Json]": lambda value: isinstance(value, dict),
}
"""Whether a value can be that of a draft's field, by the field's type."""


@dataclass(frozen=True)
class Ticket:
    """All it takes to make a waiting task and its session again where the store has lost them.

    `until` (Unix ms, the store's clock) is until when that may be done: so long a deleted task is known as deleted.
    """

    session: SessionDraft
    task: TaskDraft
    until: int

    def __str__(self) -> str:
        session, task = asdict(replace(self.session, metadata=dict(self.session.metadata))), asdict(self.task)
        return to_json({"v": VERSION, "session": session, "task": task, "until": self.until})

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Read a ticket. Raises InvalidValue, saying what is wrong with it."""
        try:
            ticket = json.loads(text)
        except (ValueError, RecursionError):
            raise _invalid("it is not JSON") from None
        if not isinstance(ticket, dict) or ticket.get("v") != VERSION:
            raise _invalid(f"it is not of version {VERSION}")
        session = SessionDraft(**_fields(ticket.get("session"), SessionDraft, "session"))
        task = TaskDraft(**_fields(ticket.get("task"), TaskDraft, "task"))
        if not _is_number(ticket.get("until")):
            raise _invalid("until is not as it should be")
        _check(session, task)
        return cls(session, task, ticket["until"])


def _fields(values: object, draft: type, where: str) -> dict[str, Any]:
    """The values as they can be a draft's, which may have got fields since they were written."""
    if not isinstance(values, dict):
        raise _invalid(f"{where} is not as it should be")
    known = {each.name: each for each in fields(draft)}
    for name in values:
        if name not in known or not _CHECKS[str(known[name].type)](values[name]):
            raise _invalid(f"{where}.{name} is not as it should be")
    for name, each in known.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise _invalid(f"{where}.{name} is missing")
    return values


def _check(session: SessionDraft, task: TaskDraft) -> None:
    check_id(session.session_id, "sessionId")
    check_id(session.conversation_id, "conversationId")
    check_id(task.task_id, "taskId")
    if session.namespace_id is not None:
        namespace_of(session.namespace_id)
    to_json(session.metadata)
    check_event_type(task.type)
    if task.wire not in WIRES or task.attempt < 1:
        raise _invalid("task.wire or task.attempt is out of range")
    if None in (session.created_at, task.created_at, task.epoch) or task.leased or not task.pending:
        raise _invalid("it is not of a task that waits")


def _invalid(why: str) -> InvalidValue:
    return InvalidValue(f"This is not the ticket of a queued task: {why}.", {"ticket": [f"Not a ticket: {why}."]})
