"""The sessions of the memory store, bounded by time (TTL) and by number (LRU)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cachetools import Cache, TTLCache

from ...errors import StoreFull
from ...models import Event, Turn
from ..codec import SessionRecord, TaskRecord, state_at


@dataclass(slots=True)
class HeldTask:
    record: TaskRecord
    events: deque[Event]
    result: str | None = None
    traceback: str | None = None


@dataclass(slots=True)
class HeldSession:
    """A session, `held` while it is in the table; its deque of turns is made with the first of them, since an empty one
    takes most of a kilobyte."""

    session_id: str
    conversation_id: str
    record: SessionRecord
    fields: dict[str, str]
    turns: deque[Turn] | tuple[()] = ()
    turn_count: int = 0
    held: bool = False
    listed_under: str | None = None
    tasks: dict[str, HeldTask] = field(default_factory=dict)

    def is_live(self, now: int) -> bool:
        return any(state_at(task.record, now).live for task in self.tasks.values())


@dataclass(slots=True)
class HeldConversation:
    """Its sessions, and what its idempotency keys have started; `many_keys` is how many there may be until those that
    count no longer are looked for."""

    sessions: dict[str, HeldSession] = field(default_factory=dict)
    keys: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    many_keys: int = 64


class Idle(TTLCache[str, HeldSession]):
    """Sessions without a live task, the least recently used evicted first, each for a TTL from its last write.

    The few that expire sooner (a session for a socket, one of the maximum age) are found out when they are looked at.
    """

    def __init__(
        self, maximum: int, ttl: int, clock: Callable[[], int], on_expired: Callable[[HeldSession], None]
    ) -> None:
        super().__init__(maximum, ttl, timer=clock)
        self._on_expired = on_expired

    def peek(self, session_id: str) -> HeldSession | None:
        """The session, expired or not; it does not count as used."""
        return Cache.__getitem__(self, session_id) if Cache.__contains__(self, session_id) else None

    def expire(self, time: float | None = None) -> list[tuple[str, HeldSession]]:
        expired = super().expire(time)
        for _, session in expired:
            self._on_expired(session)
        return expired


class SessionTable:
    """All sessions: apart those with a live task, or more than a TTL to live, where neither age nor number removes
    them. Every call is O(1)."""

    def __init__(
        self, maximum: int, ttl: int, clock: Callable[[], int], on_drop: Callable[[HeldSession, bool], None]
    ) -> None:
        self._maximum = maximum
        self._ttl = ttl
        self._clock = clock
        self._on_drop = on_drop
        self.is_pinned: Callable[[HeldSession], bool] = lambda _: False
        """Sessions that are kept for another reason than a live task."""
        self._live: dict[str, HeldSession] = {}
        self._idle = Idle(maximum, ttl, clock, lambda session: self._drop(session, False))
        self._looked_at = 0
        self._count = 0
        self._namespaces: dict[str, dict[str, HeldSession]] = {}

    def __len__(self) -> int:
        self._idle.expire()
        return self._count

    def of(self, namespace_id: str | None) -> Iterator[HeldSession]:
        """The sessions of a namespace, of None those of everyone; some may have expired."""
        if namespace_id is not None:
            yield from list(self._namespaces.get(namespace_id, {}).values())
            return
        yield from list(self._live.values())
        yield from list(self._idle.values())

    def get(self, session_id: str) -> HeldSession | None:
        """The session if it has not expired; it counts as used."""
        session = self._live.get(session_id)
        if session is None and (session := self._idle.peek(session_id)) is not None:
            self._idle.get(session_id)  # used just now
        if session is None or self._clock() < session.record["expires"]:
            return session
        self._idle.expire()
        if session.held:  # it expired sooner than the cache knows, or was held apart
            self._live.pop(session_id, None)
            self._idle.pop(session_id, None)
            self._drop(session, False)
        return None

    def put(self, session: HeldSession) -> None:
        """Take the session in, or take note that its expiry or its tasks changed. Raises StoreFull."""
        now, name, known = self._clock(), session.session_id, session.held
        if not known:
            if self._count >= self._maximum:
                self._make_room(now)
            self._count += 1
            session.held = True
        live = (session.tasks and session.is_live(now)) or session.record["expires"] > now + self._ttl
        if live or self.is_pinned(session):
            if known:
                self._idle.pop(name, None)
            self._live[name] = session
        else:
            if known:
                self._live.pop(name, None)
            self._idle[name] = session
        self._list(session, session.record.get("ns"))

    def remove(self, session: HeldSession) -> None:
        """Take the session out."""
        self._live.pop(session.session_id, None)
        self._idle.pop(session.session_id, None)
        self._forget(session)

    def _forget(self, session: HeldSession) -> None:
        self._count -= 1
        session.held = False
        self._list(session, None)

    def _list(self, session: HeldSession, namespace_id: str | None) -> None:
        if namespace_id == session.listed_under:
            return
        if session.listed_under is not None:
            listed = self._namespaces[session.listed_under]
            if listed.get(session.session_id) is session:
                del listed[session.session_id]
            if not listed:
                del self._namespaces[session.listed_under]
        if namespace_id is not None:
            self._namespaces.setdefault(namespace_id, {})[session.session_id] = session
        session.listed_under = namespace_id

    def _drop(self, session: HeldSession, evicted: bool) -> None:
        self._forget(session)
        self._on_drop(session, evicted)

    def _make_room(self, now: int) -> None:
        self._idle.expire(now)
        self._look_for_lost(now)
        while self._count >= self._maximum:
            if len(self._live) >= self._maximum:
                raise StoreFull(f"The store holds its maximum of {self._maximum} sessions, each with a live task.")
            _, session = self._idle.popitem()
            self._drop(session, True)

    def _look_for_lost(self, now: int) -> None:
        """Sessions whose tasks died are not live any more; looked for at most once a second."""
        if 0 <= now - self._looked_at < 1000:
            return
        self._looked_at = now
        for session in [session for session in self._live.values() if not session.is_live(now)]:
            if now < session.record["expires"] and self.is_pinned(session):
                continue
            del self._live[session.session_id]
            if now < session.record["expires"]:
                self._idle[session.session_id] = session
            else:
                self._drop(session, False)
