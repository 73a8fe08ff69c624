"""The store for one process: sessions in memory, bounded by time (TTL) and by number (LRU), under one lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import cast

from ...errors import (
    AlreadyStarted,
    Cancelled,
    ConversationFull,
    NamespaceFull,
    NotFound,
    SessionConflict,
    StoreFull,
    TaskRunning,
)
from ...estimate import KEPT_DURATIONS
from ...models import Cursor, Event, Task, TaskState, to_json
from ..base import (
    Answer,
    Append,
    Beat,
    Begun,
    Change,
    End,
    Page,
    SessionDraft,
    TaskDraft,
    TaskRef,
    Verdict,
    refused,
)
from ..bounds import LIVE_TASKS, STEP, TASKS, crowded
from ..codec import (
    OF_ONE_ATTEMPT,
    VERSION,
    TaskRecord,
    has_result,
    state_at,
    task_at,
)
from .sessions import MemorySessions
from .table import HeldConversation, HeldSession, HeldTask


class MemoryStore(MemorySessions):
    """Sessions and tasks in this process's memory. `clock` gives Unix ms; tests move it."""

    def begin(self, session: SessionDraft, task: TaskDraft, if_running: str = "allow", own: bool = True) -> Begun:
        with self._step() as now:
            try:
                opened = self._open(session, now, own)
            except NamespaceFull:
                if task.epoch is None and session.conversation_id in self._conversations:
                    self._check_key(self._conversations[session.conversation_id], task, now)
                raise
            if f"task:{task.task_id}" in self._tombstones:
                raise NotFound("The task was deleted.", taskId=task.task_id)
            known = opened.tasks.get(task.task_id)
            if known is not None:
                if known.record["token"] == task.token:
                    return _begun(opened, known.record, now)
                if known.record["attempt"] >= task.attempt:
                    raise TaskRunning("A newer attempt of this task has begun.", taskId=task.task_id)
            conversation = self._conversations.get(session.conversation_id, HeldConversation())
            holders = (each for each in conversation.sessions.values() if task.task_id in each.tasks)
            if any(now < each.record["expires"] and each is not opened for each in holders):
                raise SessionConflict("The task belongs to another session.", taskId=task.task_id)
            stopping: list[tuple[HeldSession, str, HeldTask]] = []
            if known is None and task.epoch is None:
                self._check_key(conversation, task, now)
                stopping = self._in_the_way(conversation, if_running, now)
            if task.epoch is None and not (known is not None and state_at(known.record, now).live):
                _check_crowd(conversation, session, stopping, now)
            return self._begin(opened, session, task, known, stopping, now)

    def _check_key(self, conversation: HeldConversation, task: TaskDraft, now: int) -> None:
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
    def _counts(conversation: HeldConversation, used: tuple[str, str, int], now: int) -> bool:
        """Whether an idempotency key still counts: for a TTL, and as long as the task that it started runs; with its
        session it is free again."""
        task_id, session_id, expires = used
        session = conversation.sessions.get(session_id)
        if session is None or now >= session.record["expires"]:
            return False
        task = session.tasks.get(task_id)
        return now < expires or (task is not None and state_at(task.record, now).live)

    @staticmethod
    def _in_the_way(
        conversation: HeldConversation, if_running: str, now: int
    ) -> list[tuple[HeldSession, str, HeldTask]]:
        if if_running == "allow":
            return []
        running = [
            (session, task_id, task)
            for session in conversation.sessions.values()
            for task_id, task in session.tasks.items()
            if now < session.record["expires"] and state_at(task.record, now).live
        ]
        if running and if_running == "reject":
            session, task_id, _ = running[0]
            ids = {"taskId": task_id, "sessionId": session.session_id, "conversationId": session.conversation_id}
            raise TaskRunning("A task of this conversation is running.", **ids)
        return running

    def _begin(
        self,
        session: HeldSession,
        draft: SessionDraft,
        task: TaskDraft,
        known: HeldTask | None,
        stopping: Sequence[tuple[HeldSession, str, HeldTask]],
        now: int,
    ) -> Begun:
        limits = self.limits
        epoch = task.epoch if task.epoch is not None else max(now, self._last_epoch + 1)
        alive = limits.lease if task.leased else limits.max_pending_age + task.delay
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
            "renewed": now,
            "past": list(self._durations.get(task.type, ())),
        }
        if not task.pending:
            record["started"] = task.started_at or now
        waits_for = [task_id for _, task_id, other in stopping if other.record["state"] == "running"]
        if not task.leased:
            record.update({"queued": True, "healed": task.epoch is not None, "ticket": now + alive})
            record["replaces"] = waits_for
            self._queued[task.task_id] = TaskRef(session.conversation_id, session.session_id, task.task_id)
        entry = HeldTask(record, known.events if known is not None else deque(maxlen=limits.max_events))
        self._make_room(session, task, now)
        before = session.tasks.get(task.task_id)
        session.tasks[task.task_id] = entry
        expires = session.record["expires"]
        # Queued work that nobody takes up is seen to be lost before its session expires.
        self._slide(session, now, limits.session_ttl if task.leased else alive + limits.session_ttl)
        if draft.created_at is not None and draft.created_at < session.record["created"]:
            # Two processes healed the same session; it belongs to the namespace that had it first.
            session.record["created"] = draft.created_at
            session.record.pop("ns", None)
            if draft.namespace_id is not None:
                session.record["ns"] = draft.namespace_id
        try:
            self._add(session, draft)
        except StoreFull:
            session.record["expires"] = expires
            if before is None:
                del session.tasks[task.task_id]
            raise
        self._last_epoch = max(self._last_epoch, epoch)
        session.record.pop("socket", None)
        session.record["activity"] = now
        if task.attempt > 1 and task.epoch is None:
            self._store(entry, [("attempt", to_json({"attempt": task.attempt}))], 0)
        if task.idempotency_key is not None:
            conversation = self._conversations[session.conversation_id]
            keys = conversation.keys
            if len(keys) >= conversation.many_keys:
                keys = {key: used for key, used in keys.items() if self._counts(conversation, used, now)}
                conversation.keys, conversation.many_keys = keys, max(64, 2 * len(keys))
            keys[task.idempotency_key] = task.task_id, session.session_id, session.record["expires"]
        for other, task_id, live in stopping:
            live.record.setdefault("cancel", now)
            if live.record["state"] == "pending":
                self._force_end(other, task_id, live, now)
            self._announce(other, task_id, cancel=True)
        self._announce(session, task.task_id)
        self._announced.append(self.session_channel(session.conversation_id, session.session_id))
        return _begun(session, record, now, waits_for)

    def _make_room(self, session: HeldSession, task: TaskDraft, now: int) -> None:
        """Of a session TASKS are kept: the oldest that does not live makes room."""
        if task.task_id in session.tasks or len(session.tasks) < TASKS:
            return
        ended = (
            (held.record["epoch"], each) for each, held in session.tasks.items() if not state_at(held.record, now).live
        )
        _, oldest = min(ended, default=(0, None))
        if oldest is None:
            raise StoreFull("As many tasks live in the session as may. Try again in a moment.")
        record = session.tasks.pop(oldest).record
        session.record["activity"] = max(session.record["activity"], record["activity"])
        self._queued.pop(oldest, None)
        self._tombstones[f"task:{oldest}"] = max(now + self.limits.session_ttl, record.get("ticket", 0))
        self._announce(session, oldest, cancel=True)

    def claim(self, ref: TaskRef, token: str) -> Begun | None:
        with self._step() as now:
            session, task = self._claimable(ref, now)
            if session is None or task is None:
                return None
            held = _is_held(task.record, token)
            if not held and _may_be_claimed(task.record, now):
                self._take_up(session, ref.task_id, task, token, now)
                held = True
            found = self._task(session, ref.task_id, task, now)
            begun = _begun(session, task.record, now, self._stopping(session.conversation_id, task.record, now))
        if not held:
            raise refused(found)
        return begun

    def claimed(self, ref: TaskRef, token: str) -> Begun | None:
        with self._step() as now:
            session, task = self._claimable(ref, now)
            if session is None or task is None or not _is_held(task.record, token):
                return None
            return _begun(session, task.record, now, self._stopping(session.conversation_id, task.record, now))

    def _claimable(self, ref: TaskRef, now: int) -> tuple[HeldSession | None, HeldTask | None]:
        if f"session:{ref.session_id}" in self._tombstones or f"task:{ref.task_id}" in self._tombstones:
            raise Cancelled("The session was deleted.", sessionId=ref.session_id, taskId=ref.task_id)
        session, task = self._held(ref)
        if session is not None and task is not None:
            self._settle(session, ref.task_id, task, now)
        return session, task

    def _take_up(self, session: HeldSession, task_id: str, task: HeldTask, token: str, now: int) -> None:
        """Begin the attempt that waits, or the one after an attempt that was lost or failed."""
        record = task.record
        healed = record.get("healed")
        if not record.get("queued"):
            record["attempt"] += 1
        self._begin_anew(task, now)
        record.update({"token": token, "state": "running", "started": now})
        self._renew(record, now)
        if self._stopping(session.conversation_id, record, now):
            record["state"] = "pending"
            del record["started"]
        if record["attempt"] > 1 or healed:
            self._store(task, [("attempt", to_json({"attempt": record["attempt"]}))], 0)
        session.record["activity"] = now
        self._slide(session, now, self.limits.session_ttl)
        self._sessions.put(session)
        self._announce(session, task_id)
        self._announced.append(self.session_channel(session.conversation_id, session.session_id))

    def _begin_anew(self, task: HeldTask, now: int) -> None:
        """Give the task an epoch of its own, without what its attempt before said of itself."""
        for name in OF_ONE_ATTEMPT:
            task.record.pop(name, None)  # type: ignore[misc]
        task.result = task.traceback = None
        self._last_epoch = max(now, self._last_epoch + 1)
        task.record.update({"epoch": self._last_epoch, "tail": 0, "updated": now, "activity": now})

    def _stopping(self, conversation_id: str, record: TaskRecord, now: int) -> list[str]:
        """The tasks that were asked to stop for this one and still run."""
        conversation = self._conversations.get(conversation_id, HeldConversation())
        tasks = {task_id: task for session in conversation.sessions.values() for task_id, task in session.tasks.items()}
        ids = [task_id for task_id in record.get("replaces", ()) if task_id in tasks]
        return [task_id for task_id in ids if state_at(tasks[task_id].record, now).live]

    def find_task(self, task_id: str) -> Task | None:
        with self._lock:
            if f"task:{task_id}" in self._tombstones:
                raise NotFound("The session was deleted.", taskId=task_id)
            ref = self._queued.get(task_id)
            return self.task(ref.session_id, task_id) if ref is not None else None

    @staticmethod
    def _store(task: HeldTask, events: Sequence[tuple[str, str]], base: int) -> None:
        epoch = task.record["epoch"]
        for number, (type, text) in enumerate(events, start=base + 1):
            task.events.append(Event(Cursor(epoch, number), type, text))
        task.record["tail"] = base + len(events)

    def _force_end(
        self, session: HeldSession, task_id: str, task: HeldTask, now: int, end: End = End("cancelled")
    ) -> None:
        """End a live task from outside: nobody runs it any more, or it never started."""
        record = task.record
        data = {"state": end.state, "errorType": end.error_type, "errorMessage": end.error_message, "taskId": task_id}
        self._store(task, [("end", to_json(data))], record["tail"])
        record.update({"state": end.state, "forced": True, "finished": now, "updated": now, "activity": now})
        _record_error(record, end)
        self._sessions.put(session)
        self._announce(session, task_id)

    def _settle(self, session: HeldSession, task_id: str, task: HeldTask, now: int) -> None:
        """Write a cancellation that is due: it was asked for, and the lease ran out."""
        record = task.record
        if TaskState(record["state"]).live and "cancel" in record and now >= record["deadline"]:
            self._force_end(session, task_id, task, now)

    def append(self, appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        with self._step() as now:
            return [self._append(each, now) for each in appends]

    def _held(self, ref: TaskRef) -> tuple[HeldSession | None, HeldTask | None]:
        """The session and the task that the store has there."""
        session = self._sessions.get(ref.session_id)
        if session is None or session.conversation_id != ref.conversation_id:
            return None, None
        return session, session.tasks.get(ref.task_id)

    def _find(
        self, ref: TaskRef, attempt: int, epoch: int, now: int
    ) -> tuple[Answer, None, None] | tuple[None, HeldSession, HeldTask]:
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
            name = f"task:{each.ref.task_id}"
            if name in self._tombstones and each.change is not None and each.change.ticket is not None:
                self._tombstones[name] = max(self._tombstones[name], now + each.change.ticket)
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
            self._renew(record, now)
        if each.change is not None:
            _apply(record, each.change, now)
        if each.end is not None and each.end.forced:
            self._keep_result(task, each.end, now)
            self._slide(session, now, self.limits.session_ttl)
            self._force_end(session, each.ref.task_id, task, now, each.end)
        elif each.end is not None and each.end.state == "pending":
            self._requeue(session, each.ref.task_id, task, each.end.wait or 0, now)
        elif each.end is not None:
            self._end(session, task, each.end, now)
        self._announce(session, each.ref.task_id)
        return Answer(Verdict.STORED, max(last, tail), cancel)

    def _requeue(self, session: HeldSession, task_id: str, task: HeldTask, wait: int, now: int) -> None:
        """Leave the task to its queue, unless somebody asked it to stop."""
        record = task.record
        if "cancel" in record:
            self._force_end(session, task_id, task, now)
            return
        self._begin_anew(task, now)
        record["attempt"] += 1
        record.update({"state": "pending", "queued": True, "ticket": max(record.get("ticket", 0), now + wait)})
        record.update({"deadline": now + wait, "renewed": now})
        self._slide(session, now, self.limits.session_ttl + wait)
        self._sessions.put(session)

    def _renew(self, record: TaskRecord, now: int) -> None:
        record.update({"deadline": now + self.limits.lease, "renewed": now})

    def _end(self, session: HeldSession, task: HeldTask, end: End, now: int) -> None:
        record = task.record
        record.update({"state": end.state, "finished": now, "activity": now})
        record.setdefault("started", now)
        _record_error(record, end)
        self._keep_result(task, end, now)
        self._slide(session, now, self.limits.session_ttl)
        self._sessions.put(session)

    def _keep_result(self, task: HeldTask, end: End, now: int) -> None:
        task.traceback = end.traceback
        if end.result is not None:
            task.result = end.result
            task.record["result"] = True
            if self.limits.result_ttl is not None:
                task.record["result_expires"] = now + self.limits.result_ttl

    def beat(self, beats: Sequence[Beat]) -> Sequence[Answer | Exception]:
        with self._step() as now:
            return [self._beat(each, now) for each in beats]

    def _beat(self, each: Beat, now: int) -> Answer:
        answer, session, task = self._find(each.ref, each.attempt, each.epoch, now)
        if session is None or task is None:
            return cast(Answer, answer)
        if TaskState(task.record["state"]).live:
            self._renew(task.record, now)
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
    def _task(session: HeldSession, task_id: str, task: HeldTask, now: int) -> Task:
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
            latest = sorted(session.tasks.items(), key=lambda item: item[1].record["epoch"], reverse=True)[:TASKS]
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

    def traceback(self, session_id: str, task_id: str) -> str | None:
        with self._lock:
            session = self._sessions.get(session_id)
            task = session.tasks.get(task_id) if session is not None else None
            return task.traceback if task is not None else None

    def record_duration(self, type: str, duration: int) -> None:
        with self._lock:
            if type not in self._durations:
                self._durations[type] = deque(maxlen=KEPT_DURATIONS)
            self._durations[type].appendleft(duration)


def _check_crowd(
    conversation: HeldConversation,
    draft: SessionDraft,
    stopping: Sequence[tuple[HeldSession, str, HeldTask]],
    now: int,
) -> None:
    """Raise ConversationFull where as many tasks live as may, but for those that end with this step."""
    living = sum(
        state_at(task.record, now).live
        for session in conversation.sessions.values()
        if now < session.record["expires"]
        for task in session.tasks.values()
    )
    if living - sum(task.record["state"] == "pending" for _, _, task in stopping) >= LIVE_TASKS:
        raise ConversationFull(crowded(), sessionId=draft.session_id, conversationId=draft.conversation_id)


def _begun(session: HeldSession, record: TaskRecord, now: int, stopping: Sequence[str] = ()) -> Begun:
    own = session.record
    return Begun(
        record["epoch"],
        record["tail"],
        own["created"],
        record["created"],
        now,
        record["attempt"],
        stopping,
        own.get("ns"),
        own.get("key"),
    )


def _is_held(record: TaskRecord, token: str) -> bool:
    """Whether the worker of this token has claimed the task and works on it."""
    return record["token"] == token and TaskState(record["state"]).live and not record.get("queued")


def _may_be_claimed(record: TaskRecord, now: int) -> bool:
    """Whether a task waits in a queue, its lease is over, or its last attempt failed without having been asked to
    stop."""
    if record["state"] == "error":
        return "cancel" not in record
    return TaskState(record["state"]).live and (record.get("queued", False) or now >= record["deadline"])


def _record_error(record: TaskRecord, end: End) -> None:
    if end.error_type is not None:
        record["error_type"] = end.error_type
    if end.error_message is not None:
        record["error_message"] = end.error_message


def _apply(record: TaskRecord, change: Change, now: int) -> None:
    if change.running and record["state"] != "running":
        record.update({"state": "running", "activity": now})
        record.pop("queued", None)
        record.setdefault("started", now)
    if change.current is not None:
        record["current"] = change.current
    if change.total is not None:
        record["total"] = change.total
    if change.message is not None:
        record["note"] = change.message
    if change.ticket is not None:
        record["ticket"] = max(record.get("ticket", 0), now + change.ticket)
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
    return wanted[: min(limit, STEP)]
