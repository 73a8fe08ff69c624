"""Sessions in memory: made, found, changed, listed and deleted, each in one step under the store's lock."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from heapq import nlargest
from itertools import islice

from cachetools import LRUCache, TLRUCache

from ...errors import (
    InvalidValue,
    NamespaceFull,
    NotFound,
    SessionConflict,
)
from ...models import Session, Turn, to_json
from ..base import (
    TOO_MANY_COUNTERS,
    Counters,
    Counting,
    Limits,
    OnWakeup,
    SessionDraft,
    SessionPage,
    Store,
    Tally,
    TaskRef,
    Wakeups,
    Wanted,
    check_size,
    too_many_names,
)
from ..bounds import COUNTERS, NAMES, RECENT_SESSIONS
from ..codec import (
    VERSION,
    SessionRecord,
    Snapshot,
    TaskRecord,
    bound,
    session_fields,
    session_from,
    snapshot_of,
)
from .table import HeldConversation, HeldSession, SessionTable
from .wakeups import MemoryWakeups

log = logging.getLogger("flask_sessionstatus")

REMEMBERED_TYPES = 1000
RECENT_TURNS = 64
REMEMBERED_TOMBSTONES = 100_000

Fields = Mapping[str, str | None]


class MemorySessions(Store):
    """The steps of a memory store that concern sessions and their turns. `clock` gives Unix ms; tests move it."""

    name = "memory"

    def __init__(self, limits: Limits, *, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self.limits = limits
        self.counting = Counting()
        self._totals = dict.fromkeys((field.name for field in fields(Counters)), 0)
        self._time = clock
        self._lock = threading.RLock()
        self._conversations: dict[str, HeldConversation] = {}
        self._sessions = SessionTable(limits.max_sessions, limits.session_ttl, clock, self._drop)
        self._tombstones: TLRUCache[str, int] = TLRUCache(REMEMBERED_TOMBSTONES, lambda _, until, __: until, clock)
        self._queued: dict[str, TaskRef] = {}
        self._durations: LRUCache[str, deque[int]] = LRUCache(REMEMBERED_TYPES)
        self._last_epoch = 0
        self._latest = 0
        self._wakeups: list[MemoryWakeups] = []
        self._announced: list[str] = []

    def ping(self) -> None:
        pass

    def active_sessions(self) -> int | None:
        with self._lock:
            return len(self._sessions)

    def totals(self) -> Counters:
        with self._lock:
            return Counters(**self._totals)

    @property
    def recovering(self) -> bool:
        return False

    def close(self) -> None:
        for wakeups in list(self._wakeups):
            wakeups.close()

    def _clock(self) -> int:
        """The time; the lock is held. Once it has jumped back, deadlines of before are one lease away."""
        now = self._time()
        if now < self._latest:
            for conversation in self._conversations.values():
                for session in conversation.sessions.values():
                    for task in session.tasks.values():
                        bound(task.record, now)
        self._latest = now
        return now

    @contextmanager
    def _step(self) -> Iterator[int]:
        """One step at one time; what it announced is passed on once the lock is free."""
        with self._lock:
            yield self._clock()
            announced, self._announced = self._announced, []
        for channel in announced:
            for wakeups in list(self._wakeups):
                if channel in wakeups.channels:
                    wakeups.on_wakeup(channel, None)

    # Wake-ups

    def wakeups(self, on_wakeup: OnWakeup) -> Wakeups:
        wakeups = MemoryWakeups(on_wakeup, self._wakeups.remove)
        self._wakeups.append(wakeups)
        return wakeups

    def session_channel(self, conversation_id: str, session_id: str) -> str:
        return f"{conversation_id}//{session_id}"

    def channel(self, ref: TaskRef) -> str:
        return f"{ref.conversation_id}/{ref.task_id}"

    def cancel_channel(self, ref: TaskRef) -> str:
        return f"{self.channel(ref)}/cancel"

    def _announce(self, session: HeldSession, task_id: str, *, cancel: bool = False) -> None:
        ref = TaskRef(session.conversation_id, session.session_id, task_id)
        self._announced.append(self.channel(ref))
        if cancel:
            self._announced.append(self.cancel_channel(ref))

    # Sessions

    def _drop(self, session: HeldSession, evicted: bool) -> None:
        """Let go of what an expired or evicted session leaves behind."""
        conversation = self._conversations.get(session.conversation_id)
        if conversation is not None and conversation.sessions.get(session.session_id) is session:
            del conversation.sessions[session.session_id]
            if not conversation.sessions:
                del self._conversations[session.conversation_id]
        for task_id, task in session.tasks.items():
            self._queued.pop(task_id, None)
            if evicted and "ticket" in task.record:
                # Its ticket is still in a queue, and must not bring it back.
                self._tombstones[f"task:{task_id}"] = task.record["ticket"]
        if evicted:
            self._totals["sessions_evicted"] += 1
        else:
            self._totals["sessions_expired"] += 1

    def _slide(self, session: HeldSession, now: int, ttl: int) -> None:
        expires = now + ttl
        if self.limits.max_age is not None:
            expires = min(expires, session.record["created"] + self.limits.max_age)
        session.record["expires"] = max(session.record["expires"], expires)

    def snapshot(self, conversation_id: str) -> Snapshot:
        with self._lock:
            now = self._clock()
            conversation = self._conversations.get(conversation_id)
            if conversation is None:
                return Snapshot(conversation_id, now, {}, {})
            sessions: dict[str, SessionRecord] = {}
            tasks: dict[str, TaskRecord] = {}
            for session in self._recent(conversation, now):
                sessions[session.session_id] = session.record.copy()
                for task_id, task in session.tasks.items():
                    tasks[task_id] = task.record.copy()
            return Snapshot(conversation_id, now, sessions, tasks)

    def _recent(self, conversation: HeldConversation, now: int) -> list[HeldSession]:
        """The sessions that live; of very many those with a live task, the most recent, and the first, whose owner the
        conversation's is."""
        living = [session for each in list(conversation.sessions) if (session := self._sessions.get(each))]
        if len(living) <= RECENT_SESSIONS:
            return living

        def recent(session: HeldSession) -> tuple[int, int, str]:
            epoch = max((task.record["epoch"] for task in session.tasks.values()), default=0)
            return epoch, session.record["created"], session.session_id

        first = min(living, key=lambda session: (session.record["created"], session.session_id))
        live = [each for each in living if each is not first and each.is_live(now)]
        idle = [each for each in living if each is not first and not each.is_live(now)]
        return [first, *live, *nlargest(max(0, RECENT_SESSIONS - 1 - len(live)), idle, key=recent)]

    def session(self, session_id: str) -> Session | None:
        with self._lock:
            session = self._sessions.get(session_id)
            return self._view(session, self._clock()) if session is not None else None

    def _view(self, session: HeldSession, now: int) -> Session:
        snapshot = snapshot_of(
            session.conversation_id,
            now,
            {session.session_id: session.record},
            {task_id: task.record for task_id, task in session.tasks.items()},
        )
        return session_from(snapshot, session.session_id, {**session.fields, "turns": str(session.turn_count)})

    def sessions(
        self, namespace_id: str | None, limit: int, after: str | None, wanted: Wanted | None = None
    ) -> SessionPage:
        before = _place(after) if after is not None else None
        with self._lock:
            now = self._clock()
            views = [self._view(each, now) for each in self._listed(namespace_id) if now < each.record["expires"]]
        found = [
            (place, view)
            for view in views
            for place in [(view.last_activity, view.session_id)]
            if (before is None or place < before) and (wanted is None or wanted(view))
        ]
        found.sort(key=lambda item: item[0], reverse=True)
        page = found[:limit]
        following = f"{page[-1][0][0]} {page[-1][0][1]}" if len(found) > limit else None
        return SessionPage([view for _, view in page], following)

    def _listed(self, namespace_id: str | None) -> Iterator[HeldSession]:
        """The sessions that a listing shows; some may have expired."""
        return self._sessions.of(namespace_id)

    def create_session(self, draft: SessionDraft, own: bool = True) -> None:
        with self._lock:
            now = self._clock()
            session = self._open(draft, now, own)
            if session.held:
                return
            if draft.for_socket:
                session.record["socket"] = True
            self._slide(session, now, self.limits.connect_deadline if draft.for_socket else self.limits.session_ttl)
            self._add(session, draft)

    def _open(self, draft: SessionDraft, now: int, own: bool) -> HeldSession:
        """The session that the draft names, or a new one that is not in the store yet. Changes nothing."""
        ids = {"sessionId": draft.session_id, "conversationId": draft.conversation_id}
        if f"session:{draft.session_id}" in self._tombstones:
            raise NotFound("The session was deleted.", **ids)
        if own and draft.created_at is None:
            self._check_owner(draft)
        session = self._sessions.get(draft.session_id)
        if session is None:
            if draft.created_at is not None and now >= draft.created_at + (self.limits.max_age or now):
                raise NotFound("The session has reached its maximum age.", **ids)
            self._check_namespace(draft, now)
            record: SessionRecord = {"v": VERSION, "created": draft.created_at or now, "expires": 0, "activity": now}
            if draft.namespace_id is not None:
                record["ns"] = draft.namespace_id
            if draft.key is not None:
                record["key"] = draft.key
            fields = session_fields(draft.language, draft.device_type, draft.client_version, draft.metadata)
            return HeldSession(draft.session_id, draft.conversation_id, record, fields)
        if session.conversation_id != draft.conversation_id:
            raise SessionConflict("The session belongs to another conversation.", **ids)
        if own and session.record.get("ns") != draft.namespace_id:
            raise SessionConflict("The session belongs to somebody else.", **ids)
        return session

    def _check_owner(self, draft: SessionDraft) -> None:
        """A conversation belongs to the namespace of its first live session."""
        conversation = self._conversations.get(draft.conversation_id)
        if conversation is None:
            return
        living = [session for session_id in list(conversation.sessions) if (session := self._sessions.get(session_id))]
        first = min(living, key=lambda session: (session.record["created"], session.session_id), default=None)
        if first is not None and first.record.get("ns") != draft.namespace_id:
            raise SessionConflict(
                "The conversation belongs to somebody else.",
                sessionId=draft.session_id,
                conversationId=draft.conversation_id,
            )

    def _check_namespace(self, draft: SessionDraft, now: int) -> None:
        maximum = self.limits.max_sessions_per_namespace
        if maximum is None or draft.namespace_id is None or draft.created_at is not None:
            return
        left = [each.record["expires"] - now for each in self._sessions.of(draft.namespace_id)]
        living = [ms for ms in left if ms > 0]
        if len(living) >= maximum:
            retry_after = max(1, -(-min(living) // 1000))
            raise NamespaceFull(f"The namespace holds its maximum of {maximum} live sessions.", retry_after=retry_after)

    def _add(self, session: HeldSession, draft: SessionDraft) -> None:
        """Put a session in its places, or take note that it changed."""
        self._sessions.put(session)
        conversation = self._conversations.get(session.conversation_id)
        if conversation is None:
            conversation = self._conversations[session.conversation_id] = HeldConversation()
        if conversation.sessions.get(session.session_id) is not session:
            conversation.sessions[session.session_id] = session
            if draft.created_at is None:
                self._totals["sessions_created"] += 1

    def update_session(self, session_id: str, fields: Fields) -> bool:
        return self.add_turns(session_id, (), fields) is not None

    def add_turns(self, session_id: str, turns: Sequence[Turn], fields: Fields) -> Sequence[Turn] | None:
        check_size(turns, fields)
        with self._step() as now:
            session = self._sessions.get(session_id)
            if session is None:
                return None
            repeated = _already(session, turns)
            if repeated is not None:
                return repeated
            after = {**session.fields, **fields}
            if _names({name for name, text in after.items() if text is not None}) > max(NAMES, _names(session.fields)):
                raise too_many_names(turns)
            for turn in turns:
                to_json([turn.content, turn.sources, dict(turn.slots), turn.results])
            for name, text in fields.items():
                if text is None:
                    session.fields.pop(name, None)
                else:
                    session.fields[name] = text
            added = []
            held = session.turns or deque(maxlen=self.limits.max_turns)
            for turn in turns:
                stored = Turn(**{**turn.__dict__, "position": session.turn_count, "timestamp": now})
                held.append(stored)
                session.turn_count += 1
                added.append(stored)
            if turns:
                session.turns = held
                session.record.pop("socket", None)
            session.record["activity"] = now
            if "socket" not in session.record:  # one made for a socket keeps its connect deadline
                self._slide(session, now, self.limits.session_ttl)
            self._sessions.put(session)
            return added

    def turns(self, session_id: str, before: int | None, limit: int) -> Sequence[Turn] | None:
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None:
                return None
            first = session.turn_count - len(session.turns)
            stop = session.turn_count if before is None else min(before, session.turn_count)
            start = max(first, stop - limit)
            return list(islice(session.turns, start - first, max(start, stop) - first))

    def touch(self, session_ids: Sequence[str]) -> Sequence[bool | Exception]:
        with self._step() as now:
            return [self._touch(session_id, now) for session_id in session_ids]

    def _touch(self, session_id: str, now: int) -> bool:
        session = self._sessions.get(session_id)
        if session is None:
            return False
        session.record.pop("socket", None)
        self._slide(session, now, self.limits.session_ttl)
        self._sessions.put(session)
        return True

    def tally(self, tallies: Sequence[Tally]) -> Sequence[bool | Exception]:
        with self._lock:
            return [self._tally(each, self._clock()) for each in tallies]

    def _tally(self, tally: Tally, now: int) -> bool:
        session = self._sessions.get(tally.session_id)
        if session is None:
            return False
        fields, last = session.fields, f"tally:{tally.writer}"
        if tally.number > int(fields.get(last, 0)):
            fields[last] = str(tally.number)
            counters = sum(name.startswith("count:") for name in fields)
            lost = False
            for name, amount in tally.amounts.items():
                if name.startswith("count:") and name not in fields:
                    if counters >= COUNTERS:
                        lost = True
                        continue
                    counters += 1
                fields[name] = str(int(fields.get(name, 0)) + amount)
            if "accesses" in tally.amounts:
                fields["accessed"] = str(now)
            if lost:
                log.warning(TOO_MANY_COUNTERS, tally.session_id[:8])
        return True

    def delete_session(self, session_id: str) -> bool:
        with self._step() as now:
            session = self._sessions.get(session_id)
            if session is None:
                return False
            self._sessions.remove(session)
            self._drop(session, False)
            self._totals["sessions_expired"] -= 1
            self._announced.append(self.session_channel(session.conversation_id, session_id))
            until = now + self.limits.session_ttl
            for task_id, task in session.tasks.items():
                until = max(until, task.record.get("ticket", 0))
                self._announce(session, task_id, cancel=True)
            for name in (f"session:{session_id}", *(f"task:{task_id}" for task_id in session.tasks)):
                self._tombstones[name] = until
            return True


def _names(fields: Iterable[str]) -> int:
    """How many are names of metadata or slots."""
    return sum(name.startswith(("meta:", "slot:")) for name in fields)


def _already(session: HeldSession, turns: Sequence[Turn]) -> Sequence[Turn] | None:
    """These turns as they were stored before, known by the first one's id; None when they were not."""
    if not turns or turns[0].turn_id is None:
        return None
    recent = list(islice(reversed(session.turns), RECENT_TURNS))[::-1]
    at = next((i for i, turn in enumerate(recent) if turn.turn_id == turns[0].turn_id), None)
    return recent[at : at + len(turns)] if at is not None else None


def _place(after: str) -> tuple[int, str]:
    """The place in a listing that a cursor names: activity and session. Raises InvalidValue."""
    activity, _, session_id = after.partition(" ")
    if not (activity.isascii() and activity.isdecimal()) or len(activity) > 16:
        raise InvalidValue("The cursor is not one of this listing.", {"cursor": ["Not a cursor of this listing."]})
    return int(activity), session_id
