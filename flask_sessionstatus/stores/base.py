"""The contract of a store. Every implementation passes the same suite, `tests/contract/`.

Each method is one step: it happens whole or not at all, and no other step comes between its parts. Times are Unix ms
by the store's own clock. Every method may raise StoreUnavailable, and RecordUnreadable where a stored record cannot
be decoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from ..errors import InvalidValue
from ..models import Cursor, Event, Json, Session, Task, Turn
from .codec import Snapshot


@dataclass(frozen=True)
class Limits:
    """The bounds that a store keeps. Times in ms."""

    session_ttl: int = 1_800_000
    lease: int = 30_000
    heartbeat: int = 5_000
    max_pending_age: int = 3_600_000
    max_age: int | None = None
    connect_deadline: int = 30_000
    result_ttl: int | None = None
    max_sessions: int = 10_000
    max_sessions_per_namespace: int | None = None
    max_events: int = 10_000
    max_turns: int = 1_000


@dataclass(frozen=True)
class SessionDraft:
    """What it takes to make a session, or to make it again after the store lost it (then with `created_at`)."""

    session_id: str
    conversation_id: str
    namespace_id: str | None
    language: str
    device_type: str | None = None
    client_version: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    created_at: int | None = None
    for_socket: bool = False


@dataclass(frozen=True)
class TaskDraft:
    """What it takes to begin an attempt of a task, or to make it again after the store lost it (then with `epoch`).

    `token` tells a repeated call from a second one; a task that is not `leased` waits in a queue that no process here
    holds.
    """

    task_id: str
    token: str
    type: str = "generation"
    wire: str = "sse"
    attempt: int = 1
    pending: bool = False
    leased: bool = True
    idempotency_key: str | None = None
    epoch: int | None = None
    created_at: int | None = None
    started_at: int | None = None


@dataclass(frozen=True)
class TaskRef:
    """Where a task is found."""

    conversation_id: str
    session_id: str
    task_id: str


@dataclass(frozen=True)
class Begun:
    """A task that has begun; `stopping` are the ids of those that were asked to stop for it."""

    epoch: int
    tail: int
    session_created_at: int
    task_created_at: int
    stopping: Sequence[str] = ()


@dataclass(frozen=True)
class Change:
    """What a run says of itself between its events; None leaves a value as it is. `remaining` is in ms."""

    running: bool = False
    current: float | None = None
    total: float | None = None
    message: str | None = None
    remaining: int | None = None


@dataclass(frozen=True)
class End:
    """How a task ends; `result` and `traceback` are texts, the result JSON."""

    state: str
    error_type: str | None = None
    error_message: str | None = None
    result: str | None = None
    traceback: str | None = None


@dataclass(frozen=True)
class Append:
    """A batch of one task's events.

    `base` is the number before the first, `floor` the oldest base the sender still holds.
    """

    ref: TaskRef
    attempt: int
    epoch: int
    base: int
    floor: int
    events: Sequence[tuple[str, str]] = ()
    change: Change | None = None
    end: End | None = None


@dataclass(frozen=True)
class Beat:
    """A task that runs, waits or lingers in this process."""

    ref: TaskRef
    attempt: int
    epoch: int


class Verdict(str, Enum):
    """What a store answers to an append or a beat."""

    STORED = "stored"
    NEED = "need"
    MISSING = "missing"
    DELETED = "deleted"
    FENCED = "fenced"
    CLOSED = "closed"


@dataclass(frozen=True)
class Answer:
    """`number` is the tail that the store has (for `need`: send again from the next)."""

    verdict: Verdict
    number: int = 0
    cancel_requested_at: int | None = None


class Page:
    """Events after a cursor and the task as it stood at `now` (Unix ms); `first` is the oldest event that is kept.

    The task may be given as a function: many pages are read for their events alone.
    """

    def __init__(
        self, now: int, task: Task | Callable[[], Task], first: Cursor | None, events: Sequence[Event]
    ) -> None:
        self.now = now
        self.first = first
        self.events = events
        self._task = task

    @property
    def task(self) -> Task:
        if not isinstance(self._task, Task):
            self._task = self._task()
        return self._task

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Page):
            return NotImplemented
        mine, theirs = (self.now, self.first, self.events), (other.now, other.first, other.events)
        return mine == theirs and self.task == other.task

    def with_events(self, events: Sequence[Event]) -> Page:
        """The same moment with other events."""
        return Page(self.now, lambda: self.task, self.first, events)


@dataclass(frozen=True)
class SessionPage:
    """Sessions, newest activity first; `next` continues the listing."""

    sessions: Sequence[Session]
    next: str | None = None


@dataclass
class Counters:
    """What a store counted in this process since it was made."""

    sessions_created: int = 0
    sessions_expired: int = 0
    sessions_evicted: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    unreadable: int = 0


def page_of(sessions: Sequence[Session], limit: int, after: str | None) -> SessionPage:
    """A page of sessions, newest activity first, after the place that `after` names."""

    def place(session: Session) -> tuple[int, str]:
        return session.last_activity, session.session_id

    if after is not None:
        activity, _, session_id = after.partition(" ")
        if not activity.isdecimal():
            raise InvalidValue("The cursor is not one of this listing.", {"cursor": ["Not a cursor of this listing."]})
        sessions = [session for session in sessions if place(session) < (int(activity), session_id)]
    ordered = sorted(sessions, key=place, reverse=True)
    page = ordered[:limit]
    more = len(ordered) > limit
    return SessionPage(page, f"{page[-1].last_activity} {page[-1].session_id}" if more else None)


OnWakeup = Callable[[str, bytes | None], None]


class Wakeups(ABC):
    """Tells a process that something happened to a task; a hint, never the truth: that is read from the store."""

    @abstractmethod
    def watch(self, channel: str) -> None:
        """Begin to hear of `channel`."""

    @abstractmethod
    def forget(self, channel: str) -> None:
        """Stop hearing of `channel`."""

    @property
    @abstractmethod
    def healthy(self) -> bool:
        """False while hints may be getting lost."""

    @abstractmethod
    def close(self) -> None:
        """End; nothing is heard any more."""


class Store(ABC):
    """Where sessions, tasks, events and turns live."""

    name: str
    limits: Limits
    counters: Counters

    @abstractmethod
    def ping(self) -> None:
        """Return if the store answers."""

    @abstractmethod
    def active_sessions(self) -> int | None:
        """How many sessions live; None where that could be counted only by going through all of them."""

    @abstractmethod
    def snapshot(self, conversation_id: str) -> Snapshot:
        """All live sessions of a conversation and their tasks; for an unknown conversation an empty one.

        One round trip.
        """

    # Sessions

    @abstractmethod
    def create_session(self, draft: SessionDraft, own: bool = True) -> None:
        """Make a session; one that is there already is left as it is.

        Raises SessionConflict when the id belongs to another conversation (or, with `own`, to another namespace),
        NotFound when the session was deleted, NamespaceFull, and StoreFull.
        """

    @abstractmethod
    def session(self, session_id: str) -> Session | None:
        """The session, or None: unknown, expired or deleted."""

    @abstractmethod
    def sessions(self, namespace_id: str | None, limit: int, after: str | None) -> SessionPage:
        """Live sessions of a namespace (None: of everyone, for hosts without owners), newest activity first.

        `after` is the `next` of the page before. Raises InvalidValue for anything else.
        """

    @abstractmethod
    def update_session(self, session_id: str, fields: Mapping[str, str | None]) -> bool:
        """Set fields by name (None removes). False when there is no such session."""

    @abstractmethod
    def record_accesses(self, counts: Mapping[str, int]) -> None:
        """Add to how often sessions were read, by id. Never counts as activity and extends nothing."""

    @abstractmethod
    def delete_session(self, session_id: str) -> bool:
        """Delete for good: nothing that a late writer does brings it back. False when there was none."""

    @abstractmethod
    def add_turns(
        self, session_id: str, turns: Sequence[Turn], fields: Mapping[str, str | None]
    ) -> Sequence[Turn] | None:
        """Append turns and set fields as one step; returns them with position and time, or None: no such session.

        A turn's id makes a repeated call harmless.
        """

    @abstractmethod
    def turns(self, session_id: str, before: int | None, limit: int) -> Sequence[Turn] | None:
        """The last `limit` turns before a position, oldest first; None: no such session."""

    # Tasks

    @abstractmethod
    def begin(self, session: SessionDraft, task: TaskDraft, if_running: str = "allow", own: bool = True) -> Begun:
        """Open the session, made if absent, and begin an attempt of a task in it.

        Raises as create_session does, and TaskRunning (`if_running="reject"`), AlreadyStarted (a used idempotency key).
        With `task.epoch` it re-creates both from an outbox's snapshot; then it raises AlreadyStarted for nothing.
        """

    @abstractmethod
    def append(self, appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        """Store batches of several tasks; each stands for itself, and so does each answer."""

    @abstractmethod
    def beat(self, beats: Sequence[Beat]) -> Sequence[Answer | Exception]:
        """Renew leases. Never counts as activity."""

    @abstractmethod
    def cancel(self, ref: TaskRef) -> Task | None:
        """Ask a task to stop; one that never started, or that nobody runs any more, ends at once.

        None: no such task.
        """

    @abstractmethod
    def task(self, session_id: str, task_id: str) -> Task | None:
        """A task of a session."""

    @abstractmethod
    def tasks(self, session_id: str, limit: int) -> Sequence[Task] | None:
        """A session's tasks, the latest first; None: no such session."""

    @abstractmethod
    def events(self, ref: TaskRef, after: Cursor, limit: int) -> Page | None:
        """Events after a cursor (exclusive), with the task at the same moment.

        None: no such task, or not yet, since an outbox may be about to make it again. Raises NotFound for a deleted
        one.
        """

    @abstractmethod
    def result(self, session_id: str, task_id: str) -> str | None:
        """A task's result as JSON text; None while there is none."""

    # Durations of finished tasks, by type

    @abstractmethod
    def record_duration(self, type: str, duration: int) -> None:
        """Remember how long a task of this type took (ms)."""

    # Wake-ups

    @abstractmethod
    def wakeups(self, on_wakeup: OnWakeup) -> Wakeups:
        """Hear of tasks: `on_wakeup(channel, hint)` is called, from any thread, when something may have happened there.

        `on_wakeup("", None)` means that hints may have been lost: look at everything.
        """

    def hinted(self, ref: TaskRef, hint: bytes) -> tuple[Page, Cursor] | None:
        """What a hint brings, as `events` would have found it, and the cursor after which that is; None: nothing."""
        return None

    @abstractmethod
    def channel(self, ref: TaskRef) -> str:
        """The channel on which a task's events, changes and end are announced."""

    @abstractmethod
    def cancel_channel(self, ref: TaskRef) -> str:
        """The channel on which a task is asked to stop."""

    @property
    @abstractmethod
    def recovering(self) -> bool:
        """True for two heartbeats after an outage: what is unknown now may be healed in a moment."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""
