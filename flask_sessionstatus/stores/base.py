"""The contract of a store. Every implementation passes the same suite, `tests/contract/`.

Each method is one step: it happens whole or not at all, and no other step comes between its parts. Times are Unix ms
by the store's own clock. Every method may raise StoreUnavailable, and RecordUnreadable where a stored record cannot
be decoded.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from uuid import uuid4

from ..errors import AlreadyStarted, Cancelled, InvalidValue, SessionStatusError, StoreUnavailable, TaskRunning
from ..models import Cursor, Event, Json, Session, Task, TaskState, Turn
from .bounds import NAMES, STEP
from .codec import Snapshot


class StoreAway(StoreUnavailable):
    """The store cannot be reached: that is no refusal, and no crowd in front of it."""


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
    """What it takes to make a session, or to make it again after the store lost it (then with `created_at`).

    `key` is the digest of the namespace key that its readers must show.
    """

    session_id: str
    conversation_id: str
    namespace_id: str | None
    language: str
    device_type: str | None = None
    client_version: str | None = None
    metadata: Mapping[str, Json] = field(default_factory=dict)
    created_at: int | None = None
    for_socket: bool = False
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class TaskDraft:
    """What it takes to begin an attempt of a task, or to make it again after the store lost it (then with `epoch`).

    `token` tells a repeated call from a second one; a task that is not `leased` waits in a queue that no process here
    holds: until a worker claims it. `delay` (ms) is for how long the queue holds it back.
    """

    task_id: str
    token: str
    type: str = "generation"
    wire: str = "sse"
    attempt: int = 1
    pending: bool = False
    leased: bool = True
    delay: int = 0
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
    """An attempt of a task that has begun, at `now` (Unix ms); `stopping` are the ids of tasks that were asked to stop
    for it and have not ended.

    `namespace_id` and `key` are the session's own: it may have been made by somebody else.
    """

    epoch: int
    tail: int
    session_created_at: int
    task_created_at: int
    now: int
    attempt: int
    stopping: Sequence[str] = ()
    namespace_id: str | None = None
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Change:
    """What a run says of itself between its events; None leaves a value as it is. `remaining` is in ms; for `ticket` ms
    from now a ticket that it gave out could make the task again: so long a deleted one must be known as deleted."""

    running: bool = False
    current: float | None = None
    total: float | None = None
    message: str | None = None
    remaining: int | None = None
    ticket: int | None = None


@dataclass(frozen=True)
class End:
    """How an attempt ends; `result` and `traceback` are texts, the result JSON.

    `pending` ends the attempt and not the task: the next one waits in a queue, at most `wait` ms. A `forced` end comes
    from another process than the one that works: the store adds its event behind what that one stored.
    """

    state: str
    error_type: str | None = None
    error_message: str | None = None
    result: str | None = None
    traceback: str | None = None
    wait: int | None = None
    forced: bool = False


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


@dataclass(frozen=True)
class Tally:
    """What a process counted of a session since its tally before; `amounts` by field: see `codec.session_from`.

    `writer` is the process and `number` rises with each of its tallies: a repeated one adds nothing.
    """

    session_id: str
    amounts: Mapping[str, int]
    writer: str
    number: int


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

    def expired_within(self, ms: float) -> bool:
        """Whether the task's lease, which was live then, ran out in the `ms` since."""
        deadline = self.task.deadline
        return deadline is not None and self.now < deadline <= self.now + ms

    def with_events(self, events: Sequence[Event]) -> Page:
        """The same moment with other events."""
        return Page(self.now, lambda: self.task, self.first, events)


@dataclass(frozen=True)
class SessionPage:
    """Sessions, newest activity first; `next` continues the listing."""

    sessions: Sequence[Session]
    next: str | None = None


@dataclass(frozen=True)
class Counters:
    """What was counted since the store began, by all of its processes. `unreadable` are records that made no sense."""

    sessions_created: int = 0
    sessions_expired: int = 0
    sessions_evicted: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    unreadable: int = 0


class Counting:
    """What this process counted and has not told the store yet; names as in Counters.

    `on_first` is called once there is something to tell.
    """

    def __init__(self) -> None:
        self.on_first: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._batch: tuple[str, dict[str, int]] | None = None

    def add(self, name: str, amount: int = 1) -> None:
        """Count."""
        with self._lock:
            first = not self._counts
            self._counts[name] = self._counts.get(name, 0) + amount
        if first:
            self.on_first()

    def batch(self) -> tuple[str, Mapping[str, int]]:
        """What is to be told next, and its name: the same until it is acknowledged, so that a repetition can be
        known."""
        with self._lock:
            if self._batch is None:
                self._batch, self._counts = (uuid4().hex, self._counts), {}
            return self._batch

    def acknowledge(self, batch: str) -> None:
        """The store has it."""
        with self._lock:
            if self._batch is not None and self._batch[0] == batch:
                self._batch = None


Wanted = Callable[[Session], bool]


def check_size(turns: Sequence[Turn], fields: Mapping[str, str | None]) -> None:
    """Raise InvalidValue for more turns or fields than one step takes."""
    if len(turns) > STEP:
        message = f"At most {STEP} turns at once."
        raise InvalidValue(message, {"messages": [message]})
    if len(fields) > STEP:
        raise too_many_names(turns)


TOO_MANY_COUNTERS = "Session %s has too many counters: what is counted under new names is lost."


def too_many_names(turns: Sequence[Turn]) -> InvalidValue:
    """The error for more names than the metadata and slots of a session may have."""
    message = f"Metadata and slots of a session have at most {NAMES} names together."
    return InvalidValue(message, {"slots" if turns else "metadata": [message]})


def refused(task: Task) -> SessionStatusError:
    """Why a task cannot be claimed."""
    ids = {"taskId": task.task_id, "sessionId": task.session_id, "conversationId": task.conversation_id}
    if task.state is TaskState.COMPLETED:
        return AlreadyStarted("The task has completed.", task, **ids)
    if task.state.live:
        return TaskRunning("Another worker has taken up the task.", **ids)
    return Cancelled("The task was stopped.", **ids)


OnWakeup = Callable[[str, bytes | None], None]
STANDS = b""
"""The hint of a channel that is heard of from now on: what was announced there just before is not known."""


class Wakeups(ABC):
    """Tells a process that something happened to a task; a hint, never the truth: that is read from the store."""

    @abstractmethod
    def watch(self, channel: str) -> None:
        """Begin to hear of `channel`; where that takes a moment, the hint STANDS says when it is done."""

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
    counting: Counting

    @abstractmethod
    def ping(self) -> None:
        """Return if the store answers."""

    @abstractmethod
    def active_sessions(self) -> int | None:
        """How many sessions live; None where that could be counted only by going through all of them."""

    @abstractmethod
    def totals(self) -> Counters:
        """Tell the store what this process counted, once, and return what all of them did."""

    @abstractmethod
    def snapshot(self, conversation_id: str) -> Snapshot:
        """The sessions of a conversation that have a live task, and the most recent others up to RECENT_SESSIONS in
        all, with their live tasks and their latest ones; for an unknown conversation an empty one. The first session
        is always among them.

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
    def sessions(
        self, namespace_id: str | None, limit: int, after: str | None, wanted: Wanted | None = None
    ) -> SessionPage:
        """Live sessions of a namespace (None: of everyone, for hosts without owners), newest activity first.

        `after` is the `next` of the page before. Raises InvalidValue for anything else. Where few are `wanted`, a page
        may be shorter than its limit, even empty, and still have a next.
        """

    @abstractmethod
    def update_session(self, session_id: str, fields: Mapping[str, str | None]) -> bool:
        """Set fields by name (None removes). False when there is no such session.

        Raises InvalidValue for more names of metadata and slots than NAMES.
        """

    @abstractmethod
    def touch(self, session_ids: Sequence[str]) -> Sequence[bool | Exception]:
        """Somebody is connected to the sessions: they live for a TTL from now, whatever their connect deadline was.

        Never counts as activity. Each stands for itself, and so does each answer; False: no such session.
        """

    @abstractmethod
    def tally(self, tallies: Sequence[Tally]) -> Sequence[bool | Exception]:
        """Add what was counted of sessions, under at most COUNTERS names each. Never counts as activity and extends
        nothing.

        Each stands for itself, and so does each answer; False: no such session.
        """

    @abstractmethod
    def delete_session(self, session_id: str) -> bool:
        """Delete for good: nothing that a late writer does brings it back. False when there was none.

        Raises StoreFull where as many deleted ones wait for another store as may.
        """

    @abstractmethod
    def add_turns(
        self, session_id: str, turns: Sequence[Turn], fields: Mapping[str, str | None]
    ) -> Sequence[Turn] | None:
        """Append turns and set fields as one step; returns them with position and time, or None: no such session.

        A turn's id makes a repeated call harmless. Raises InvalidValue as update_session does, and for more than STEP
        turns.
        """

    @abstractmethod
    def turns(self, session_id: str, before: int | None, limit: int) -> Sequence[Turn] | None:
        """The last `limit` turns before a position, oldest first; None: no such session."""

    # Tasks

    @abstractmethod
    def begin(self, session: SessionDraft, task: TaskDraft, if_running: str = "allow", own: bool = True) -> Begun:
        """Open the session, made if absent, and begin an attempt of a task in it.

        Raises as create_session does, and TaskRunning (`if_running="reject"`), AlreadyStarted (a used idempotency key),
        ConversationFull.
        With `replace`, tasks that have not started are cancelled, those that run are asked to stop.
        With `task.epoch` it re-creates both from a snapshot; then it raises AlreadyStarted for nothing.
        """

    @abstractmethod
    def claim(self, ref: TaskRef, token: str) -> Begun | None:
        """Begin the attempt of a task that waits in a queue; it runs from now on, under a lease and in a new epoch.

        A task whose lease is over, or whose last attempt ended as an error, gets a new attempt. As long as tasks that
        were asked to stop for it run, it stays pending, under its lease. `token` is the worker's: it tells a repeated
        call from another worker's.

        None: no such task. Raises TaskRunning, AlreadyStarted (it has completed), and Cancelled (or deleted).
        """

    @abstractmethod
    def claimed(self, ref: TaskRef, token: str) -> Begun | None:
        """The attempt that a worker has claimed and works on; begins nothing.

        None: there is none, or it is over. Raises Cancelled when the task was deleted.
        """

    @abstractmethod
    def find_task(self, task_id: str) -> Task | None:
        """A task that was put in a queue, by its id alone; kept while a ticket of it may come, and a TTL from what it
        last did, as long as its session lives. (In memory as long as its session.)

        None: no such task. Raises NotFound for a deleted one.
        """

    @abstractmethod
    def append(self, appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        """Store batches of several tasks; each stands for itself, and so does each answer.

        An attempt that ends as `pending` leaves the task to the queue: pending, with the number of its next attempt. A
        task that was asked to stop is cancelled instead.
        """

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
        """A session's tasks, the latest first; None: no such session. TASKS are kept."""

    @abstractmethod
    def events(self, ref: TaskRef, after: Cursor, limit: int) -> Page | None:
        """Events after a cursor (exclusive), at most STEP, with the task at the same moment.

        None: no such task, or not yet, since an outbox may be about to make it again. Raises NotFound for a deleted
        one.
        """

    @abstractmethod
    def result(self, session_id: str, task_id: str) -> str | None:
        """A task's result as JSON text; None while there is none."""

    @abstractmethod
    def traceback(self, session_id: str, task_id: str) -> str | None:
        """The traceback that a failed task's end brought; None without one."""

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
    def session_channel(self, conversation_id: str, session_id: str) -> str:
        """The channel on which it is announced that a session got a task, or was deleted."""

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

    @property
    def degraded(self) -> bool:
        """Whether this process goes on without its store, from its own memory."""
        return False

    def is_gone(self, session_id: str) -> bool:
        """Whether a session is known to have been deleted, also while the store recovers."""
        return False

    def can_follow(self, ref: TaskRef) -> bool:
        """Whether a task's events can be read at this time."""
        return True

    def hand_over(self, timeout: float) -> bool:
        """Store what is held in this process alone; False when that was not done within `timeout` s."""
        return True

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""
