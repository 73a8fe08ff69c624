"""The five concepts: session, task, event, turn (and the cursor that names an event)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import ClassVar, NamedTuple, Union
from uuid import UUID

from .errors import InvalidValue

Json = Union[None, bool, int, float, str, "list[Json]", "dict[str, Json]"]

RESERVED_EVENT_TYPES = frozenset({"end", "gap", "status", "attempt", "error", "open"})
ROLES = ("user", "assistant", "system", "tool")

_PLAIN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class _Encoder:
    """What `_PLAIN` is, at half the cost for a small value: CPython builds what does the work anew for each call.

    One is used by one caller at a time, and by the next one afterwards: few are ever made, and greenlets keep none.
    """

    idle: ClassVar[list[_Encoder]] = []

    def __init__(self) -> None:
        self._entered: dict[int, object] = {}  # the lists and dicts that it is in: a circle shows at once
        make = getattr(json.encoder, "c_make_encoder", None)  # not every Python has it
        options = self._entered, _PLAIN.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
        self._chunks: Callable[[object, int], Iterable[str]] | None = make(*options) if make is not None else None

    def encode(self, value: object) -> str:
        if self._chunks is None:
            return _PLAIN.encode(value)
        try:
            return "".join(self._chunks(value, 0))
        finally:
            self._entered.clear()


def _encode(value: object) -> str:
    try:
        encoder = _Encoder.idle.pop()
    except IndexError:
        encoder = _Encoder()
    try:
        return encoder.encode(value)
    finally:
        _Encoder.idle.append(encoder)


_CURSOR = re.compile(r"(0|[1-9][0-9]{0,15})-(0|[1-9][0-9]{0,15})", re.ASCII)
_EVENT_TYPE = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII)
_MAX_ID_BYTES = 256


class TaskState(str, Enum):
    """Where a task stands. `lost` is never stored: it is what a reader sees once the lease has run out."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"
    LOST = "lost"

    def __str__(self) -> str:
        return self.value

    @property
    def live(self) -> bool:
        return self in (TaskState.PENDING, TaskState.RUNNING)

    @property
    def terminal(self) -> bool:
        """True for the three states that are written once and never change."""
        return self in (TaskState.COMPLETED, TaskState.ERROR, TaskState.CANCELLED)

    def may_become(self, later: TaskState) -> bool:
        """Whether a task in this state may be written to `later`; staying as it is is allowed."""
        return later in _TRANSITIONS[self]


_ENDS = {TaskState.COMPLETED, TaskState.ERROR, TaskState.CANCELLED}
_TRANSITIONS: Mapping[TaskState, set[TaskState]] = {
    TaskState.PENDING: {TaskState.PENDING, TaskState.RUNNING} | _ENDS,
    TaskState.RUNNING: {TaskState.PENDING, TaskState.RUNNING} | _ENDS,
    TaskState.LOST: {TaskState.PENDING, TaskState.RUNNING} | _ENDS,
    TaskState.COMPLETED: {TaskState.COMPLETED},
    TaskState.ERROR: {TaskState.ERROR},
    TaskState.CANCELLED: {TaskState.CANCELLED},
}


class SessionState(str, Enum):
    """A session's status on the wire."""

    ACTIVE = "active"
    IDLE = "idle"
    COMPLETED = "completed"

    def __str__(self) -> str:
        return self.value


class Cursor(NamedTuple):
    """The place of an event: the epoch of its attempt (ms) and its number within it. `0-0` is before everything."""

    epoch: int = 0
    number: int = 0

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read `<epoch>-<n>`. Raises InvalidValue for anything else."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise InvalidValue("A cursor looks like 1704123456789-42.", {"cursor": ["Not a cursor: <epoch>-<number>."]})
        return cls(int(match[1]), int(match[2]))


ORIGIN = Cursor()


@dataclass(frozen=True)
class Event:
    """One entry of a task's stream; `json` is its data as JSON text.

    `follows` says whether nothing is missing before it, where its number does not tell.
    """

    cursor: Cursor
    type: str
    json: str
    follows: bool | None = None

    @property
    def data(self) -> Json:
        loaded: Json = json.loads(self.json)
        return loaded


@dataclass(frozen=True)
class Progress:
    """How far a task is; `current` and `total` are in the work's own unit."""

    current: float | None = None
    total: float | None = None
    message: str | None = None


@dataclass(frozen=True)
class Task:
    """One background job inside a session, as seen at one moment. All times are Unix ms.

    `ticket` is for the queue's message, where the task was put in one just now. A `foreign` task is another program's:
    its cursors are the ids of that program's entries, and epochs mean nothing there.
    """

    task_id: str
    session_id: str
    conversation_id: str
    namespace_id: str | None
    type: str
    state: TaskState
    attempt: int
    epoch: int
    tail: int
    created_at: int
    updated_at: int
    started_at: int | None = None
    finished_at: int | None = None
    deadline: int | None = None
    progress: Progress = field(default_factory=Progress)
    estimated_completion: int | None = None
    estimate_basis: str | None = None
    cancel_requested_at: int | None = None
    result_available: bool = False
    error_type: str | None = None
    error_message: str | None = None
    wire: str = "sse"
    ticket: str | None = field(default=None, repr=False)
    foreign: bool = False

    @property
    def cursor(self) -> Cursor:
        """The cursor of the task's last event; `0-0` before its first."""
        return Cursor(self.epoch, self.tail) if self.tail or self.foreign else ORIGIN

    def may_have_given(self, cursor: Cursor) -> bool:
        """Whether a cursor can be that of one of the task's events. An earlier attempt's events lie in the stream of
        the task, under an epoch below its present one."""
        if self.foreign:
            return not self.state.terminal or cursor <= self.cursor
        return self.epoch == cursor.epoch or (self.attempt > 1 and self.created_at <= cursor.epoch < self.epoch)


@dataclass(frozen=True)
class Session:
    """Somebody's piece of conversational work, as seen at one moment, `seen_at`. All times are Unix ms.

    `key` is the digest of the namespace key that its readers must show, if it has one.
    """

    session_id: str
    conversation_id: str
    namespace_id: str | None
    status: SessionState
    created_at: int
    last_activity: int
    expires_at: int
    language: str
    device_type: str | None = None
    client_version: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    message_count: int = 0
    pending_tasks_count: int = 0
    current_slots: Mapping[str, Json] = field(default_factory=dict)
    current_template_id: str | None = None
    latest_task: Task | None = None
    last_accessed: int | None = None
    access_count: int = 0
    audio_chunks_received: int = 0
    audio_chunks_processed: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)
    seen_at: int = 0
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Turn:
    """One message of a session's history; `position` counts from 0, `timestamp` is Unix ms. Both are given by the
    store."""

    role: str
    content: str
    position: int = -1
    timestamp: int = 0
    turn_id: str | None = None
    sources: Json = None
    resolved_question: str | None = None
    template_id: str | None = None
    slots: Mapping[str, Json] = field(default_factory=dict)
    results: Json = None


def utf8_size(text: str) -> int:
    """The length of a text in bytes of UTF-8; ASCII, which CPython knows from other text, is not encoded for it."""
    return len(text) if text.isascii() else len(text.encode())


@dataclass(frozen=True)
class Message:
    """What a client said over a session's socket: `data` where it was binary, otherwise the JSON value."""

    json: Json = None
    data: bytes | None = None


def check_id(value: str, name: str) -> str:
    """Return `value` if it can be an id: 1 to 256 bytes of printable UTF-8 without `/`.

    Raises InvalidValue, naming `name`.
    """
    if (
        isinstance(value, str)
        and value.isprintable()
        and value not in ("", ".", "..")
        and "/" not in value
        and "\ufffd" not in value
        and utf8_size(value) <= _MAX_ID_BYTES
    ):
        return value
    raise InvalidValue(
        f"{name} is not a valid id: 1 to {_MAX_ID_BYTES} bytes of printable text without '/'.",
        {name: [f"Not a valid id: 1 to {_MAX_ID_BYTES} bytes of printable text without '/'."]},
    )


def namespace_of(value: str | int | UUID) -> str:
    """The text of a namespace as `identify` or a caller gives it.

    Raises InvalidValue for other types and unusable text.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, UUID)):
        raise InvalidValue(f"A namespace is a str, an int or a UUID, not {type(value).__name__}.")
    return check_id(str(value), "namespaceId")


@lru_cache(maxsize=1024)
def check_event_type(value: str) -> str:
    """Return `value` if a producer may emit events of that type. Raises InvalidValue."""
    if value in RESERVED_EVENT_TYPES:
        raise InvalidValue(f"The event type {value!r} is reserved: {', '.join(sorted(RESERVED_EVENT_TYPES))}.")
    if not _EVENT_TYPE.fullmatch(value):
        raise InvalidValue(f"An event type is 1 to 64 letters, digits or _.:- and not {value!r}.")
    return value


def to_json(value: object) -> str:
    """JSON text of `value`, compact, non-ASCII kept.

    Raises InvalidValue for NaN, lone surrogates and other non-JSON.
    """
    try:
        text = _encode(value)
        if not text.isascii():
            text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"Not JSON: {error}.") from error
    return text
