"""The store for one process: sessions in memory, bounded by time (TTL) and by number (LRU), under one lock."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

from cachetools import Cache, LRUCache, TLRUCache, TTLCache

from ..errors import AlreadyStarted, NamespaceFull, NotFound, SessionConflict, StoreFull, TaskRunning
from ..estimate import KEPT_DURATIONS
from ..models import Cursor, Event, Session, Task, TaskState, Turn, to_json
from .base import (
    Answer,
    Append,
    Beat,
    Begun,
    Change,
    Counters,
    End,
    Limits,
    OnWakeup,
    Page,
    SessionDraft,
    SessionPage,
    Store,
    TaskDraft,
    TaskRef,
    Verdict,
    Wakeups,
    page_of,
)
from .codec import (
    VERSION,
    SessionRecord,
    Snapshot,
    TaskRecord,
    has_result,
    session_fields,
    session_from,
    snapshot_of,
    state_at,
    task_at,
)

REMEMBERED_TYPES = 1000
REMEMBERED_TOMBSTONES = 100_000

Fields = Mapping[str, str | None]


@dataclass
class _Task:
    record: TaskRecord
    events: deque[Event]
    result: str | None = None


@dataclass
class _Session:
    session_id: str
    conversation_id: str
    record: SessionRecord
    fields: dict[str, str]
    turns: deque[Turn]
    turn_count: int = 0
    tasks: dict[str, _Task] = field(default_factory=dict)

    def is_live(self, now: int) -> bool:
        return any(state_at(task.record, now).live for task in self.tasks.values())


@dataclass
class _Conversation:
    sessions: dict[str, _Session] = field(default_factory=dict)
    keys: dict[str, tuple[str, str, int]] = field(default_factory=dict)


class _Idle(TLRUCache[str, _Session]):
    """Sessions without a live task, each until its own expiry, the least recently used evicted first."""

    def __init__(self, maximum: int, clock: Callable[[], int], on_expired: Callable[[_Session], None]) -> None:
        super().__init__(maximum, lambda _id, session, _now: session.record["expires"], timer=clock)
        self._on_expired = on_expired

    def peek(self, session_id: str) -> _Session:
        """The session, which does not count as used."""
        return Cache.__getitem__(self, session_id)

    def expire(self, time: float | None = None) -> list[tuple[str, _Session]]:
        expired = list(super().expire(time))
        for _, session in expired:
            self._on_expired(session)
        return expired


class _Sessions:
    """All sessions: those with a live task apart, where neither age nor number removes them. Every call is O(1)."""

    def __init__(self, maximum: int, clock: Callable[[], int], on_drop: Callable[[_Session, bool], None]) -> None:
        self._maximum = maximum
        self._clock = clock
        self._on_drop = on_drop
        self._live: dict[str, _Session] = {}
        self._idle = _Idle(maximum, clock, lambda session: on_drop(session, False))
        self._looked_at = 0

    def __len__(self) -> int:
        return len(self._live) + len(self._idle)

    def __iter__(self) -> Iterator[_Session]:
        yield from list(self._live.values())
        for session_id in list(self._idle):
            yield self._idle.peek(session_id)

    def get(self, session_id: str) -> _Session | None:
        """The session if it has not expired; it counts as used."""
        session = self._live.get(session_id)
        if session is None:
            return self._idle.get(session_id)
        if self._clock() < session.record["expires"]:
            return session
        del self._live[session_id]
        self._on_drop(session, False)
        return None

    def put(self, session: _Session) -> None:
        """Take the session in, or take note that its expiry or its tasks changed. Raises StoreFull."""
        now = self._clock()
        known = session.session_id in self._live or session.session_id in self._idle
        if not known:
            self._make_room(now)
        if session.is_live(now):
            self._idle.pop(session.session_id, None)
            self._live[session.session_id] = session
        else:
            self._live.pop(session.session_id, None)
            self._idle[session.session_id] = session

    def remove(self, session_id: str) -> None:
        self._live.pop(session_id, None)
        self._idle.pop(session_id, None)

    def _make_room(self, now: int) -> None:
        if len(self) < self._maximum:
            return
        if not self._idle:
            self._look_for_lost(now)
        if not self._idle and len(self._live) >= self._maximum:
            raise StoreFull(f"The store holds its maximum of {self._maximum} sessions, each with a live task.")
        while len(self) >= self._maximum:
            _, session = self._idle.popitem()
            self._on_drop(session, True)

    def _look_for_lost(self, now: int) -> None:
        """Sessions whose tasks died are not live any more; looked for at most once a second."""
        if now - self._looked_at < 1000:
            return
        self._looked_at = now
        for session in [session for session in self._live.values() if not session.is_live(now)]:
            del self._live[session.session_id]
            if now < session.record["expires"]:
                self._idle[session.session_id] = session
            else:
                self._on_drop(session, False)


class MemoryWakeups(Wakeups):
    """Wake-ups within the process: the store calls, nothing gets lost."""

    def __init__(self, on_wakeup: OnWakeup, on_close: Callable[[MemoryWakeups], None]) -> None:
        self.on_wakeup = on_wakeup
        self.channels: set[str] = set()
        self._on_close = on_close

    def watch(self, channel: str) -> None:
        self.channels.add(channel)

    def forget(self, channel: str) -> None:
        self.channels.discard(channel)

    @property
    def healthy(self) -> bool:
        return True

    def close(self) -> None:
        self._on_close(self)


class MemoryStore(Store):
    """Sessions in this process's memory. `clock` gives Unix ms; tests move it."""

    name = "memory"

    def __init__(self, limits: Limits, *, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self.limits = limits
        self.counters = Counters()
        self._clock = clock
        self._lock = threading.RLock()
        self._conversations: dict[str, _Conversation] = {}
        self._sessions = _Sessions(limits.max_sessions, clock, self._drop)
        self._tombstones: TTLCache[str, bool] = TTLCache(REMEMBERED_TOMBSTONES, limits.session_ttl, timer=clock)
        self._durations: LRUCache[str, deque[int]] = LRUCache(REMEMBERED_TYPES)
        self._last_epoch = 0
        self._wakeups: list[MemoryWakeups] = []
        self._announced: list[str] = []

    def ping(self) -> None:
        pass

    def active_sessions(self) -> int | None:
        with self._lock:
            return len(self._sessions)

    @property
    def recovering(self) -> bool:
        return False

    def close(self) -> None:
        for wakeups in list(self._wakeups):
            wakeups.close()

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

    def channel(self, ref: TaskRef) -> str:
        return f"{ref.conversation_id}/{ref.task_id}"

    def cancel_channel(self, ref: TaskRef) -> str:
        return f"{self.channel(ref)}/cancel"

    def _announce(self, session: _Session, task_id: str, *, cancel: bool = False) -> None:
        ref = TaskRef(session.conversation_id, session.session_id, task_id)
        self._announced.append(self.channel(ref))
        if cancel:
            self._announced.append(self.cancel_channel(ref))

    # Sessions

    def _drop(self, session: _Session, evicted: bool) -> None:
        """Let go of what an expired or evicted session leaves behind."""
        conversation = self._conversations.get(session.conversation_id)
        if conversation is not None and conversation.sessions.get(session.session_id) is session:
            del conversation.sessions[session.session_id]
            if not conversation.sessions:
                del self._conversations[session.conversation_id]
        if evicted:
            self.counters.sessions_evicted += 1
        else:
            self.counters.sessions_expired += 1

    def _slide(self, session: _Session, now: int, ttl: int) -> None:
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
            for session_id in list(conversation.sessions):
                session = self._sessions.get(session_id)
                if session is not None:
                    sessions[session_id] = session.record.copy()
                    for task_id, task in session.tasks.items():
                        tasks[task_id] = task.record.copy()
            return Snapshot(conversation_id, now, sessions, tasks)

    def session(self, session_id: str) -> Session | None:
        with self._lock:
            session = self._sessions.get(session_id)
            return self._view(session, self._clock()) if session is not None else None

    def _view(self, session: _Session, now: int) -> Session:
        snapshot = snapshot_of(
            session.conversation_id,
            now,
            {session.session_id: session.record},
            {task_id: task.record for task_id, task in session.tasks.items()},
        )
        return session_from(snapshot, session.session_id, {**session.fields, "turns": str(session.turn_count)})

    def sessions(self, namespace_id: str | None, limit: int, after: str | None) -> SessionPage:
        with self._lock:
            now = self._clock()
            mine = (each for each in self._sessions if namespace_id in (None, each.record.get("ns")))
            return page_of([self._view(each, now) for each in mine if now < each.record["expires"]], limit, after)

    def create_session(self, draft: SessionDraft, own: bool = True) -> None:
        with self._step() as now:
            session = self._open(draft, now, own)
            conversation = self._conversations.get(session.conversation_id, _Conversation())
            if conversation.sessions.get(session.session_id) is not session:
                ttl = self.limits.connect_deadline if draft.for_socket else self.limits.session_ttl
                if draft.for_socket:
                    session.record["socket"] = True
                self._slide(session, now, ttl)
                self._add(session, draft)

    def _open(self, draft: SessionDraft, now: int, own: bool) -> _Session:
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
            fields = session_fields(draft.language, draft.device_type, draft.client_version, draft.metadata)
            turns: deque[Turn] = deque(maxlen=self.limits.max_turns)
            return _Session(draft.session_id, draft.conversation_id, record, fields, turns)
        if session.conversation_id != draft.conversation_id:
            raise SessionConflict("The session belongs to another conversation.", **ids)
        if own and session.record.get("ns") != draft.namespace_id:
            raise SessionConflict("The session belongs to somebody else.", **ids)
        return session

    def _check_owner(self, draft: SessionDraft) -> None:
        """A conversation belongs to the namespace of its first live session."""
        conversation = self._conversations.get(draft.conversation_id, _Conversation())
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
        held = sum(
            each.record.get("ns") == draft.namespace_id and now < each.record["expires"] for each in self._sessions
        )
        if held >= maximum:
            retry_after = max(1, self.limits.session_ttl // 1000)
            raise NamespaceFull(f"The namespace holds its maximum of {maximum} live sessions.", retry_after=retry_after)

    def _add(self, session: _Session, draft: SessionDraft) -> None:
        """Put a session in its places, or take note that it changed."""
        self._sessions.put(session)
        conversation = self._conversations.setdefault(session.conversation_id, _Conversation())
        if conversation.sessions.get(session.session_id) is not session:
            conversation.sessions[session.session_id] = session
            if draft.created_at is None:
                self.counters.sessions_created += 1

    def update_session(self, session_id: str, fields: Fields) -> bool:
        return self.add_turns(session_id, (), fields) is not None

    def add_turns(self, session_id: str, turns: Sequence[Turn], fields: Fields) -> Sequence[Turn] | None:
        with self._step() as now:
            session = self._sessions.get(session_id)
            if session is None:
                return None
            for turn in turns:
                to_json([turn.content, turn.sources, dict(turn.slots), turn.results])
            for name, text in fields.items():
                if text is None:
                    session.fields.pop(name, None)
                else:
                    session.fields[name] = text
            added = []
            for turn in turns:
                stored = Turn(**{**turn.__dict__, "position": session.turn_count, "timestamp": now})
                session.turns.append(stored)
                session.turn_count += 1
                added.append(stored)
            if turns:
                session.record.pop("socket", None)
            session.record["activity"] = now
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

    def record_accesses(self, counts: Mapping[str, int]) -> None:
        with self._lock:
            for session_id, count in counts.items():
                session = self._sessions.get(session_id)
                if session is not None:
                    fields = session.fields
                    fields["accesses"] = str(int(fields.get("accesses", 0)) + count)
                    fields["accessed"] = str(self._clock())

    def delete_session(self, session_id: str) -> bool:
        with self._step():
            session = self._sessions.get(session_id)
            if session is None:
                return False
            self._sessions.remove(session_id)
            self._drop(session, False)
            self.counters.sessions_expired -= 1
            self._tombstones[f"session:{session_id}"] = True
            for task_id in session.tasks:
                self._tombstones[f"task:{task_id}"] = True
                self._announce(session, task_id, cancel=True)
            return True

    # Tasks

    def begin(self, session: SessionDraft, task: TaskDraft, if_running: str = "allow", own: bool = True) -> Begun:
        with self._step() as now:
            opened = self._open(session, now, own)
            if f"task:{task.task_id}" in self._tombstones:
                raise NotFound("The task was deleted.", taskId=task.task_id)
            known = opened.tasks.get(task.task_id)
            if known is not None:
                if known.record["token"] == task.token:
                    return _begun(opened, known.record)
                if known.record["attempt"] >= task.attempt:
                    raise TaskRunning("A newer attempt of this task has begun.", taskId=task.task_id)
            conversation = self._conversations.get(session.conversation_id, _Conversation())
            holders = (each for each in conversation.sessions.values() if task.task_id in each.tasks)
            if any(now < each.record["expires"] and each is not opened for each in holders):
                raise SessionConflict("The task belongs to another session.", taskId=task.task_id)
            stopping: list[tuple[_Session, str, _Task]] = []
            if known is None and task.epoch is None:
                self._check_key(conversation, task, now)
                stopping = self._in_the_way(conversation, if_running, now)
            return self._begin(opened, session, task, known, stopping, now)

    def _check_key(self, conversation: _Conversation, task: TaskDraft, now: int) -> None:
        if task.idempotency_key is None:
            return
        used = conversation.keys.get(task.idempotency_key)
        if used is None or not self._counts(conversation, used, now):
            return
        task_id, session_id, _ = used
        first = self.task(session_id, task_id)
        if first is None:
            raise NotFound("The task that this idempotency key started is gone.", taskId=task_id)
        raise AlreadyStarted("The idempotency key was used before.", first, taskId=task_id)

    @staticmethod
    def _counts(conversation: _Conversation, used: tuple[str, str, int], now: int) -> bool:
        """Whether an idempotency key still counts: for a TTL, and as long as the task that it started runs."""
        task_id, session_id, expires = used
        session = conversation.sessions.get(session_id)
        task = session.tasks.get(task_id) if session is not None else None
        return now < expires or (task is not None and state_at(task.record, now).live)

    @staticmethod
    def _in_the_way(conversation: _Conversation, if_running: str, now: int) -> list[tuple[_Session, str, _Task]]:
        if if_running == "allow":
            return []
        running = [
            (session, task_id, task)
            for session in conversation.sessions.values()
            for task_id, task in session.tasks.items()
            if state_at(task.record, now).live
        ]
        if running and if_running == "reject":
            session, task_id, _ = running[0]
            ids = {"taskId": task_id, "sessionId": session.session_id, "conversationId": session.conversation_id}
            raise TaskRunning("A task of this conversation is running.", **ids)
        return running

    def _begin(
        self,
        session: _Session,
        draft: SessionDraft,
        task: TaskDraft,
        known: _Task | None,
        stopping: Sequence[tuple[_Session, str, _Task]],
        now: int,
    ) -> Begun:
        limits = self.limits
        epoch = task.epoch if task.epoch is not None else max(now, self._last_epoch + 1)
        alive = limits.lease if task.leased else limits.max_pending_age
        record: TaskRecord = {
            "v": VERSION,
            "session": session.session_id,
            "type": task.type,
            "wire": task.wire,
            "token": task.token,
            "state": "pending" if task.pending else "running",
            "attempt": task.attempt,
            "epoch": epoch,
            "tail": 0,
            "created": known.record["created"] if known is not None else task.created_at or now,
            "updated": now,
            "activity": now,
            "deadline": now + alive,
            "past": list(self._durations.get(task.type, ())),
        }
        if not task.pending:
            record["started"] = task.started_at or now
        entry = _Task(record, known.events if known is not None else deque(maxlen=limits.max_events))
        before = session.tasks.get(task.task_id)
        session.tasks[task.task_id] = entry
        expires = session.record["expires"]
        self._slide(session, now, max(limits.session_ttl, alive))
        try:
            self._add(session, draft)
        except StoreFull:
            session.record["expires"] = expires
            if before is None:
                del session.tasks[task.task_id]
            raise
        self._last_epoch = max(self._last_epoch, epoch)
        if draft.created_at is not None and draft.created_at < session.record["created"]:
            # Two processes healed the same session; it belongs to the namespace that had it first.
            session.record["created"] = draft.created_at
            session.record.pop("ns", None)
            if draft.namespace_id is not None:
                session.record["ns"] = draft.namespace_id
        session.record.pop("socket", None)
        session.record["activity"] = now
        if task.attempt > 1 and task.epoch is None:
            self._store(entry, [("attempt", to_json({"attempt": task.attempt}))], 0)
        if task.idempotency_key is not None:
            conversation = self._conversations[session.conversation_id]
            kept = {key: used for key, used in conversation.keys.items() if self._counts(conversation, used, now)}
            used = task.task_id, session.session_id, session.record["expires"]
            conversation.keys = {**kept, task.idempotency_key: used}
        for other, task_id, running in stopping:
            running.record.setdefault("cancel", now)
            self._announce(other, task_id, cancel=True)
        self._announce(session, task.task_id)
        return _begun(session, record, [task_id for _, task_id, _ in stopping])

    @staticmethod
    def _store(task: _Task, events: Sequence[tuple[str, str]], base: int) -> None:
        epoch = task.record["epoch"]
        for number, (type, text) in enumerate(events, start=base + 1):
            task.events.append(Event(Cursor(epoch, number), type, text))
        task.record["tail"] = base + len(events)

    def _force_end(self, session: _Session, task_id: str, task: _Task, now: int) -> None:
        """End a live task from the store's side: nobody runs it any more, or it never started."""
        record = task.record
        data = {"state": "cancelled", "errorType": None, "errorMessage": None, "taskId": task_id}
        self._store(task, [("end", to_json(data))], record["tail"])
        record.update({"state": "cancelled", "forced": True, "finished": now, "updated": now, "activity": now})
        self._sessions.put(session)
        self._announce(session, task_id)

    def _settle(self, session: _Session, task_id: str, task: _Task, now: int) -> None:
        """Write a cancellation that is due: it was asked for, and the lease ran out."""
        record = task.record
        if TaskState(record["state"]).live and "cancel" in record and now >= record["deadline"]:
            self._force_end(session, task_id, task, now)

    def append(self, appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        with self._step() as now:
            return [self._append(each, now) for each in appends]

    def _held(self, ref: TaskRef) -> tuple[_Session | None, _Task | None]:
        """The session and the task that the store has there."""
        session = self._sessions.get(ref.session_id)
        if session is None or session.conversation_id != ref.conversation_id:
            return None, None
        return session, session.tasks.get(ref.task_id)

    def _find(
        self, ref: TaskRef, attempt: int, epoch: int, now: int
    ) -> tuple[Answer, None, None] | tuple[None, _Session, _Task]:
        if f"task:{ref.task_id}" in self._tombstones:
            return Answer(Verdict.DELETED), None, None
        session, task = self._held(ref)
        if session is None or task is None or task.record["epoch"] < epoch:
            return Answer(Verdict.MISSING), None, None
        if task.record["epoch"] > epoch:
            return Answer(Verdict.FENCED), None, None
        self._settle(session, ref.task_id, task, now)
        if task.record.get("forced"):
            return Answer(Verdict.CLOSED, task.record["tail"], task.record.get("cancel")), None, None
        return None, session, task

    def _append(self, each: Append, now: int) -> Answer:
        answer, session, task = self._find(each.ref, each.attempt, each.epoch, now)
        if session is None or task is None:
            return cast(Answer, answer)
        record, tail, cancel = task.record, task.record["tail"], task.record.get("cancel")
        last = each.base + len(each.events)
        live = TaskState(record["state"]).live
        if not live:
            return Answer(Verdict.STORED if last <= tail else Verdict.CLOSED, tail, cancel)
        if each.base > tail and each.base != each.floor:
            return Answer(Verdict.NEED, tail, cancel)
        if last > tail:
            skip = max(0, tail - each.base)
            self._store(task, each.events[skip:], each.base + skip)
            record["activity"] = now
        record["updated"] = now
        if each.change is not None or last > tail:
            record["deadline"] = now + self.limits.lease
        if each.change is not None:
            _apply(record, each.change, now)
        if each.end is not None:
            self._end(session, task, each.end, now)
        self._announce(session, each.ref.task_id)
        return Answer(Verdict.STORED, record["tail"], cancel)

    def _end(self, session: _Session, task: _Task, end: End, now: int) -> None:
        record = task.record
        record.update({"state": end.state, "finished": now, "activity": now})
        record.setdefault("started", now)
        if end.error_type is not None:
            record["error_type"] = end.error_type
        if end.error_message is not None:
            record["error_message"] = end.error_message
        if end.result is not None:
            task.result = end.result
            record["result"] = True
            if self.limits.result_ttl is not None:
                record["result_expires"] = now + self.limits.result_ttl
        self._slide(session, now, self.limits.session_ttl)
        self._sessions.put(session)

    def beat(self, beats: Sequence[Beat]) -> Sequence[Answer | Exception]:
        with self._step() as now:
            return [self._beat(each, now) for each in beats]

    def _beat(self, each: Beat, now: int) -> Answer:
        answer, session, task = self._find(each.ref, each.attempt, each.epoch, now)
        if session is None or task is None:
            return cast(Answer, answer)
        if TaskState(task.record["state"]).live:
            task.record["deadline"] = now + self.limits.lease
        self._slide(session, now, self.limits.session_ttl)
        self._sessions.put(session)
        return Answer(Verdict.STORED, task.record["tail"], task.record.get("cancel"))

    def cancel(self, ref: TaskRef) -> Task | None:
        with self._step() as now:
            session, task = self._held(ref)
            if session is None or task is None:
                return None
            record = task.record
            if TaskState(record["state"]).live:
                if "cancel" not in record:
                    record.update({"cancel": now, "updated": now, "activity": now})
                if record["state"] == "pending" or now >= record["deadline"]:
                    self._force_end(session, ref.task_id, task, now)
                self._announce(session, ref.task_id, cancel=True)
            return self._task(session, ref.task_id, task, now)

    @staticmethod
    def _task(session: _Session, task_id: str, task: _Task, now: int) -> Task:
        return task_at(task.record, task_id, session.conversation_id, session.record.get("ns"), now)

    def task(self, session_id: str, task_id: str) -> Task | None:
        with self._lock:
            session = self._sessions.get(session_id)
            task = session.tasks.get(task_id) if session is not None else None
            if session is None or task is None:
                return None
            return self._task(session, task_id, task, self._clock())

    def tasks(self, session_id: str, limit: int) -> Sequence[Task] | None:
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None:
                return None
            now = self._clock()
            latest = sorted(session.tasks.items(), key=lambda item: item[1].record["epoch"], reverse=True)
            return [self._task(session, task_id, task, now) for task_id, task in latest[:limit]]

    def events(self, ref: TaskRef, after: Cursor, limit: int) -> Page | None:
        with self._step() as now:
            if f"task:{ref.task_id}" in self._tombstones:
                raise NotFound("The session was deleted.", sessionId=ref.session_id, taskId=ref.task_id)
            session, task = self._held(ref)
            if session is None or task is None:
                return None
            self._settle(session, ref.task_id, task, now)
            first = task.events[0].cursor if task.events else None
            return Page(now, self._task(session, ref.task_id, task, now), first, _after(task.events, after, limit))

    def result(self, session_id: str, task_id: str) -> str | None:
        with self._lock:
            session = self._sessions.get(session_id)
            task = session.tasks.get(task_id) if session is not None else None
            return task.result if task is not None and has_result(task.record, self._clock()) else None

    def record_duration(self, type: str, duration: int) -> None:
        with self._lock:
            if type not in self._durations:
                self._durations[type] = deque(maxlen=KEPT_DURATIONS)
            self._durations[type].appendleft(duration)


def _begun(session: _Session, record: TaskRecord, stopping: Sequence[str] = ()) -> Begun:
    return Begun(record["epoch"], record["tail"], session.record["created"], record["created"], stopping)


def _apply(record: TaskRecord, change: Change, now: int) -> None:
    if change.running and record["state"] != "running":
        record.update({"state": "running", "activity": now})
        record.setdefault("started", now)
    if change.current is not None:
        record["current"] = change.current
    if change.total is not None:
        record["total"] = change.total
    if change.message is not None:
        record["note"] = change.message
    if change.remaining is not None:
        record.update({"remaining": change.remaining, "remaining_at": now})


def _after(events: deque[Event], after: Cursor, limit: int) -> list[Event]:
    """Events after a cursor; found from the end, where followers are."""
    wanted: list[Event] = []
    for event in reversed(events):
        if event.cursor <= after:
            break
        wanted.append(event)
    wanted.reverse()
    return wanted[:limit]
