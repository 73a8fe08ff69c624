"""The messages of tracked tasks: each carries the ticket of its task in a header."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Protocol

from celery import signals
from celery.utils.time import maybe_iso8601
from flask import Flask, appcontext_tearing_down, g

from ...errors import SessionStatusError
from ...extension import current_sessionstatus
from ...models import Task
from ...runs import Run

log = logging.getLogger("flask_sessionstatus")

HEADER = "sessionstatus"
PARENT = "sessionstatus_parent"
"""What a worker's parent calls this delivery of a message; nothing where no parent looks after it."""
_TRACKED = "_sessionstatus_tracked"


class Request(Protocol):
    """What Celery tells of a message: to the function, to the worker, or as it was sent."""

    def get(self, key: str, default: Any = None, /) -> Any: ...


def ticket_of(request: Request) -> str | None:
    """The ticket, or the task's id, that a message carries."""
    found: str | None = request.get(HEADER) or (request.get("headers") or {}).get(HEADER)
    return found


def worker_of(request: Request, pid: int) -> str | None:
    """The name under which a worker's parent and its child hold the task of a message together.

    It is the child's alone: Celery gives the work of one that died too early for it to notice to another.
    """
    name = request.get(PARENT)
    return None if name is None else f"{name} {pid}"


@dataclass
class Tracked:
    """A task that began here, and the message that carries its ticket."""

    task: Task
    message_id: str | None = None
    sent: bool = False


@dataclass
class Job:
    """A message that is worked on here; `passed_on` says that the ticket goes on in another message of its id."""

    ticket: str
    run: Run
    passed_on: bool = False


tracked: dict[str, Tracked] = {}
"""Tasks that began here, by ticket, as long as the app context of their `track` lasts."""

jobs: dict[str, Job] = {}
"""What is worked on here, by the message's id."""


def headers_of(task: Task, cancel_unsent: bool) -> dict[str, str]:
    """The headers for the message of a task that has begun in this app context, and is cancelled if that ends first."""
    if task.ticket is None:  # its key was used, and it does not wait any more
        return {HEADER: task.task_id}
    tracked[task.ticket] = Tracked(task, sent=not cancel_unsent)
    g.setdefault(_TRACKED, []).append(task.ticket)
    return {HEADER: task.ticket}


def _cancel_unsent(app: Flask, **_: object) -> None:
    for ticket in g.pop(_TRACKED, ()):
        each = tracked.pop(ticket)
        if each.sent:
            continue
        log.warning("Task %s is cancelled: its message was not sent.", each.task.task_id[:8])
        try:
            current_sessionstatus().cancel(each.task)
        except SessionStatusError as error:
            log.error("Task %s could not be cancelled: %s", each.task.task_id[:8], error)


def mark_sent(ticket: str) -> None:
    """Take note that a ticket has reached its worker, or the queue."""
    if ticket in tracked:
        tracked[ticket].sent = True


def _before_publish(headers: dict[str, Any], body: Any, **_: object) -> None:
    message_id = _id_of(headers, body)
    headers.pop(PARENT, None)
    if HEADER not in headers:
        if message_id in jobs:  # the task replaces itself by another one under its id
            headers[HEADER] = jobs[message_id].ticket
        return
    known = tracked.get(headers[HEADER])
    if known is None:
        return
    if known.message_id not in (None, message_id):
        log.warning("Message %s runs untracked: a ticket is for one message, and this was another's.", message_id)
        del headers[HEADER]
        return
    known.message_id = message_id


def _after_publish(headers: dict[str, Any], body: Any, **_: object) -> None:
    if tracked and isinstance(body, tuple):  # what a chain, a chord or a callback sends later goes along in the message
        for ticket in _tickets_in(body[2]):
            mark_sent(ticket)
    if HEADER not in headers:
        return
    mark_sent(headers[HEADER])
    job = jobs.get(_id_of(headers, body))
    if job is not None:
        job.passed_on = True
        job.run.retry(_seconds_until(maybe_iso8601(headers.get("eta"))))


def _tickets_in(later: Any) -> Iterator[str]:
    """The tickets of signatures: of mappings, in lists and in one another."""
    if isinstance(later, Mapping):
        ticket = (later.get("headers") or {}).get(HEADER)
        if ticket is not None:
            yield ticket
        later = later.values()
    elif not isinstance(later, (list, tuple)):
        return
    for each in later:
        yield from _tickets_in(each)


def _id_of(headers: Mapping[str, Any], body: Any) -> str:
    """The id of a message, of either version of Celery's protocol."""
    found: str = headers["id"] if "id" in headers else body["id"]
    return found


def _seconds_until(time: datetime | None) -> float:
    return 0.0 if time is None else max(0.0, (time - datetime.now(timezone.utc)).total_seconds())


signals.before_task_publish.connect(_before_publish)
signals.after_task_publish.connect(_after_publish)
appcontext_tearing_down.connect(_cancel_unsent)
