"""What can go wrong, in the words of somebody who has to mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import Task


class SessionStatusError(Exception):
    """Base of everything this package raises on purpose; `ids` names what it is about (camelCase, as in a JSON
    body)."""

    def __init__(self, message: str, **ids: str) -> None:
        super().__init__(message)
        self.message = message
        self.ids = ids


class ConfigurationError(SessionStatusError, ValueError):
    """A configuration value is wrong; the message names its key."""


class StoreUnavailable(SessionStatusError):
    """The store cannot be reached, or refuses to work; nothing is known about what it holds.

    `retry_after` is in seconds.
    """

    retry_after = 1


class StoreFull(StoreUnavailable):
    """The in-memory store holds its maximum of sessions and each of them has a live task; or as many of them, or of
    deleted ones, as may wait for a Redis that is away."""

    retry_after = 5


class RecordUnreadable(SessionStatusError):
    """A stored record cannot be decoded; only the id in question is affected."""


class NotFound(SessionStatusError):
    """No such session, task or result: unknown, expired, deleted, or somebody else's."""


class SessionConflict(SessionStatusError):
    """The session id is in use for another conversation, or by another owner."""


class TaskRunning(SessionStatusError):
    """A task of this conversation is pending or running, and `if_running="reject"` was asked for; or another worker
    works on the task that a queue delivered."""


class AlreadyStarted(SessionStatusError):
    """The idempotency key was used before, and `task` is the task that it started; or the task that a queue delivered
    has completed."""

    def __init__(self, message: str, task: Task, **ids: str) -> None:
        super().__init__(message, **ids)
        self.task = task


class NamespaceFull(SessionStatusError):
    """The namespace holds its maximum of live sessions. `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int, **ids: str) -> None:
        super().__init__(message, **ids)
        self.retry_after = retry_after


class ConversationFull(SessionStatusError):
    """As many tasks of the conversation are pending or running as may be at a time. `retry_after` is in seconds."""

    retry_after = 5


class Unauthorized(SessionStatusError):
    """The host's `identify` knows nobody."""


class Forbidden(SessionStatusError):
    """The caller is known but may not do this, or nobody has said who may."""


class InvalidValue(SessionStatusError, ValueError):
    """An id, field or argument is outside what the contract allows; `errors` maps fields to messages."""

    def __init__(self, message: str, errors: Mapping[str, Sequence[str]] | None = None, **ids: str) -> None:
        super().__init__(message, **ids)
        self.errors = dict(errors or {})


class BadRequest(SessionStatusError):
    """The request body is not JSON."""


class BodyTooLarge(SessionStatusError):
    """The request body is longer than `SESSIONSTATUS_MAX_BODY_BYTES`."""


class UnsupportedBody(SessionStatusError):
    """The request body is neither JSON nor empty."""


class Cancelled(SessionStatusError):
    """Raised inside the work once somebody asked it to stop; leaving the `run` block with it ends the task as
    cancelled. A `work` block raises it on entry when the task was stopped or deleted while it waited."""


class OutboxFull(SessionStatusError):
    """The store has been away for so long that the outbox holds its maximum of events that are not stored yet."""
