"""What this process saw lately of the store that it goes on without: enough to go on from.

Fed with answers that came anyway, and bounded: conversations by the number of their sessions, turns by their size.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

from cachetools import LRUCache

from ...models import Session, Task, TaskState, Turn, to_json
from ..base import Begun, End, SessionDraft, TaskDraft, TaskRef
from ..codec import VERSION, SessionRecord, Snapshot, TaskRecord, session_fields
from .known import KEPT_TURNS, KnownConversation, KnownSession, record_of, record_of_claim, record_of_end

KEPT_BYTES = 33_554_432
TURN_BYTES = 512
REMEMBERED = 4096
"""How many deleted sessions are remembered: what was read before may be told after."""


class _Conversations(LRUCache[str, KnownConversation]):
    """The least recently seen goes first, once there are more than so many sessions."""

    def __init__(self, maximum: int, where: dict[str, str]) -> None:
        super().__init__(maximum, getsizeof=lambda known: max(1, len(known.sessions)))
        self._where = where

    def popitem(self) -> tuple[str, KnownConversation]:
        conversation_id, known = super().popitem()
        for session_id in known.sessions:
            self._where.pop(session_id, None)
        return conversation_id, known


class Mirror:
    """What was read and written, as long as there was somebody to read it from and to write it to."""

    def __init__(self, max_sessions: int) -> None:
        self._lock = threading.Lock()
        self._where: dict[str, str] = {}
        self._conversations = _Conversations(max_sessions, self._where)
        self._turns: LRUCache[str, tuple[Turn, ...]] = LRUCache(KEPT_BYTES, getsizeof=_size)
        self._deleted: LRUCache[str, int] = LRUCache(REMEMBERED)

    # What it is asked

    def where(self, session_id: str) -> str | None:
        """The conversation of a session."""
        return self._where.get(session_id)

    def conversation(self, conversation_id: str) -> KnownConversation | None:
        """What is known of a conversation at this moment: a call that is under way may still bring more."""
        with self._lock:
            known = self._conversations.get(conversation_id)
            return known.copy() if known is not None else None

    def turns(self, session_id: str) -> Sequence[Turn]:
        """The last turns of a session that were seen, oldest first."""
        with self._lock:
            return self._turns.get(session_id, ())

    def of(self, namespace_id: str | None) -> Iterator[str]:
        """The conversations in which a namespace has sessions, of None: all."""
        with self._lock:
            known = list(self._conversations.items())
        for conversation_id, conversation in known:
            sessions = conversation.sessions.values()
            if namespace_id is None or any(each.record.get("ns") == namespace_id for each in sessions):
                yield conversation_id

    # What it is told

    def saw(self, whole: Snapshot) -> None:
        """All of a conversation; other programs' sessions are not for us to go on with."""
        snapshot = whole.own()
        others_run = snapshot is not whole and any(
            task.get("foreign") and whole.is_live(task) for task in whole.tasks.values()
        )
        with self._lock:
            known = self._conversations.get(snapshot.conversation_id)
            if all(self._is_deleted(session_id, snapshot.now) for session_id in snapshot.sessions):
                if known is not None:
                    self._forget_conversation(snapshot.conversation_id, known)
                return
            before = known.sessions if known is not None else {}
            sessions: dict[str, KnownSession] = {}
            for session_id, record in snapshot.sessions.items():
                if self._is_deleted(session_id, snapshot.now):
                    continue
                each = before.get(session_id)
                if each is not None:
                    each.record = record
                sessions[session_id] = each or KnownSession(record)
            for gone in before.keys() - sessions.keys():
                self._where.pop(gone, None)
            seen = KnownConversation(sessions, {}, {}, others_run)
            if known is not None:
                seen.keys = {key: used for key, used in known.keys.items() if used[1] in sessions}
                seen.tasks = {
                    task_id: task
                    for task_id, task in known.tasks.items()
                    # A snapshot shows of each session those that live, and the latest.
                    if task_id in snapshot.tasks or not TaskState(task["state"]).live
                    if task["session"] in sessions
                }
                seen.ours = {task_id: epoch for task_id, epoch in known.ours.items() if task_id in seen.tasks}
            for task_id, task in snapshot.tasks.items():
                if task["session"] not in sessions:
                    continue
                live = TaskState(task["state"]).live
                seen.saw_task(task_id, task, lost=live and not snapshot.is_live(task))
                if "key" in task:
                    seen.saw_key(task["key"], task_id, task)
            self._put(snapshot.conversation_id, seen, snapshot.now)

    def saw_session(self, session: Session) -> None:
        """A session with all its fields, and its latest task."""
        record: SessionRecord = {
            "v": VERSION,
            "created": session.created_at,
            "expires": session.expires_at,
            "activity": session.last_activity,
        }
        if session.namespace_id is not None:
            record["ns"] = session.namespace_id
        if session.key is not None:
            record["key"] = session.key
        now = session.seen_at or session.last_activity
        with self._lock:
            if self._is_deleted(session.session_id, now):
                return
            known = self._of(session.conversation_id)
            known.sessions[session.session_id] = KnownSession(record, session.message_count, session)
            task = session.latest_task
            if task is not None:
                token = known.tasks[task.task_id]["token"] if task.task_id in known.tasks else ""
                known.saw_task(task.task_id, record_of(task, token), lost=task.state is TaskState.LOST)
            self._put(session.conversation_id, known, now)

    def saw_begun(self, draft: SessionDraft, task: TaskDraft, begun: Begun, ttl: int, alive: int) -> None:
        """A task that has begun here; `ttl` and `alive` (ms) are for how long session and task live."""
        now = begun.now
        with self._lock:
            if self._is_deleted(draft.session_id, now):
                return
            known = self._of(draft.conversation_id)
            session = known.sessions.get(draft.session_id)
            if session is None:
                session = known.sessions[draft.session_id] = KnownSession({"v": VERSION, "created": now})
            record: SessionRecord = {
                "v": VERSION,
                "created": begun.session_created_at,
                "expires": max(session.record.get("expires", 0), now + ttl),
                "activity": now,
            }
            if begun.namespace_id is not None:
                record["ns"] = begun.namespace_id
            if begun.key is not None:
                record["key"] = begun.key
            session.record = record
            if begun.session_created_at == now and session.fields is None:  # it was made with this
                session.made = session_fields(draft.language, draft.device_type, draft.client_version, draft.metadata)
                session.turn_count = 0
            begins: TaskRecord = {
                "v": VERSION,
                "session": draft.session_id,
                "type": task.type,
                "wire": task.wire,
                "token": task.token,
                "state": "pending" if task.pending else "running",
                "attempt": begun.attempt,
                "epoch": begun.epoch,
                "tail": begun.tail,
                "created": begun.task_created_at,
                "updated": now,
                "activity": now,
                "deadline": now + alive,
                "renewed": now,
            }
            if not task.pending:
                begins["started"] = task.started_at or now
            if not task.leased:
                begins.update({"queued": True, "ticket": now + alive})
            known.saw_task(task.task_id, begins)
            if task.leased:
                known.ours[task.task_id] = begun.epoch
            if task.idempotency_key is not None:
                known.saw_key(task.idempotency_key, task.task_id, begins)
            self._put(draft.conversation_id, known, now)

    def saw_claimed(self, ref: TaskRef, token: str, begun: Begun, ttl: int, lease: int) -> None:
        """A task that a worker of this process, by its token, has taken up."""
        with self._lock:
            known = self._conversations.get(ref.conversation_id)
            session = known.sessions.get(ref.session_id) if known is not None else None
            before = known.tasks.get(ref.task_id) if known is not None else None
            if known is None or session is None or before is None or before["epoch"] > begun.epoch:
                return
            known.saw_task(ref.task_id, record_of_claim(before, token, begun, lease))
            known.ours[ref.task_id] = begun.epoch
            self._live_on(session, begun.now, ttl)

    def saw_fields(self, session_id: str, fields: Mapping[str, str | None], now: int, ttl: int) -> None:
        """Fields that were set (None: removed)."""
        with self._lock:
            session = self._session(session_id)
            if session is None:
                return
            known = session.fields if session.fields is not None else {}
            for name, text in fields.items():
                if text is None:
                    known.pop(name, None)
                else:
                    known[name] = text
            self._live_on(session, now, ttl)
            session.record["activity"] = max(now, session.record["activity"])

    def saw_turns(self, session_id: str, turns: Sequence[Turn], *, latest: bool) -> None:
        """Turns in order; `latest`: none came after them."""
        if not turns or not latest:
            return
        with self._lock:
            session = self._session(session_id)
            if session is not None:
                session.turn_count = max(session.turn_count or 0, turns[-1].position + 1)
            known = self._turns.get(session_id, ())
            if known and known[-1] == turns[-1] and known[0].position <= turns[0].position:
                return
            before = tuple(turn for turn in known if turn.position < turns[0].position)
            if before and before[-1].position + 1 != turns[0].position:
                before = ()
            kept = (*before, *turns)[-KEPT_TURNS:]
            if _size(kept) <= KEPT_BYTES // 16:
                self._turns[session_id] = kept
            else:
                self._turns.pop(session_id, None)

    def saw_alive(self, ref: TaskRef, now: int, lease: int, ttl: int) -> None:
        """Something of a task was heard: whoever works on it has renewed its lease."""
        with self._lock:
            known = self._conversations.get(ref.conversation_id)
            session = known.sessions.get(ref.session_id) if known is not None else None
            record = known.tasks.get(ref.task_id) if known is not None else None
            if known is None or session is None:
                return
            self._live_on(session, now, ttl)
            if record is not None and now + lease > record["deadline"]:
                known.saw_task(ref.task_id, {**record, "deadline": now + lease, "renewed": now})

    def saw_task(self, task: Task) -> None:
        """A task by itself."""
        with self._lock:
            known = self._conversations.get(task.conversation_id)
            before = known.tasks.get(task.task_id) if known is not None else None
            if known is not None and before is not None:
                known.saw_task(task.task_id, record_of(task, before["token"]), lost=task.state is TaskState.LOST)

    def saw_end(self, ref: TaskRef, epoch: int, end: End | None, now: int, ttl: int) -> None:
        """An attempt of a task has ended, as this process has stored; None: it is over, and nobody said how."""
        with self._lock:
            known = self._conversations.get(ref.conversation_id)
            before = known.tasks.get(ref.task_id) if known is not None else None
            if known is None or before is None or before["epoch"] != epoch or not TaskState(before["state"]).live:
                return
            if end is None:
                del known.tasks[ref.task_id]
                return
            known.saw_task(ref.task_id, record_of_end(before, end, now))
            session = known.sessions.get(ref.session_id)
            if session is not None:
                self._live_on(session, now, ttl + (end.wait or 0))

    def saw_life(self, session_id: str, now: int, ttl: int) -> None:
        """A session lives on for a TTL."""
        with self._lock:
            session = self._session(session_id)
            if session is not None:
                self._live_on(session, now, ttl)

    def saw_deleted(self, session_id: str, until: int) -> None:
        """A session was deleted, and cannot be made again before a time."""
        with self._lock:
            self._deleted[session_id] = until
        self.forget(session_id)

    def forget(self, session_id: str) -> None:
        """A session is not there any more."""
        with self._lock:
            conversation_id = self._where.pop(session_id, None)
            self._turns.pop(session_id, None)
            known = self._conversations.get(conversation_id) if conversation_id is not None else None
            if known is None or conversation_id is None or session_id not in known.sessions:
                return
            known.forget(session_id)
            if not known.sessions:
                self._forget_conversation(conversation_id, known)

    # With the lock held

    def _is_deleted(self, session_id: str, now: int) -> bool:
        return bool(self._deleted) and now < self._deleted.get(session_id, 0)

    @staticmethod
    def _live_on(session: KnownSession, now: int, ttl: int) -> None:
        record = session.record.copy()  # a snapshot may hold it as well
        record["expires"] = max(record["expires"], now + ttl)
        session.record = record

    def _of(self, conversation_id: str) -> KnownConversation:
        return self._conversations.get(conversation_id) or KnownConversation()

    def _session(self, session_id: str) -> KnownSession | None:
        conversation_id = self._where.get(session_id)
        known = self._conversations.get(conversation_id) if conversation_id is not None else None
        return known.sessions.get(session_id) if known is not None else None

    def _put(self, conversation_id: str, known: KnownConversation, now: int) -> None:
        for session_id in known.expired(now):
            known.forget(session_id)
            self._where.pop(session_id, None)
            self._turns.pop(session_id, None)
        known.trim(now)
        try:
            self._conversations[conversation_id] = known
        except ValueError:  # one conversation of more sessions than are kept
            self._forget_conversation(conversation_id, known)
            return
        for session_id in known.sessions:
            self._where[session_id] = conversation_id

    def _forget_conversation(self, conversation_id: str, known: KnownConversation) -> None:
        self._conversations.pop(conversation_id, None)
        for session_id in known.sessions:
            self._where.pop(session_id, None)


def _size(turns: Sequence[Turn]) -> int:
    """About how many bytes turns take."""
    return sum(TURN_BYTES + 2 * len(turn.content) + 2 * _extra(turn) for turn in turns)


def _extra(turn: Turn) -> int:
    more = [part for part in (turn.sources, turn.results, turn.resolved_question, turn.slots or None) if part]
    return len(to_json([dict(part) if isinstance(part, Mapping) else part for part in more])) if more else 0
