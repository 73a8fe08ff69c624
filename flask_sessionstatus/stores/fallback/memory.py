"""The memory of one outage: sessions made in it, and sessions adopted from before."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from ...errors import StoreFull, StoreUnavailable
from ...models import Cursor, Session, Task, TaskState, Turn
from ..base import Answer, Begun, Limits, Page, SessionDraft, Store, Tally, TaskDraft, TaskRef, Verdict
from ..codec import TaskRecord, session_fields
from ..memory import MemoryStore
from ..memory.table import HeldConversation, HeldSession, HeldTask
from .books import Book, Deleted
from .known import KEPT_TURNS, KnownConversation

log = logging.getLogger("flask_sessionstatus")

FAR = 10 * 365 * 86_400_000
"""Milliseconds: what ran elsewhere is taken as running for as long as nobody can ask."""


class AdoptingMemory(MemoryStore):
    """A memory store that stands in for another one, whose `names` for channels it uses, and adopts what was known of
    its sessions when they are needed."""

    def __init__(self, limits: Limits, names: Store, clock: Callable[[], int]) -> None:
        super().__init__(limits, clock=clock)
        self.began = clock()
        self.unhanded: dict[str, None] = {}
        self.deleted: dict[str, Deleted] = {}
        self.buried: dict[str, Deleted] = {}
        self.durations: deque[tuple[str, int]] = deque(maxlen=limits.max_sessions)
        self._strays: list[Tally] = []
        self._later_strays: dict[tuple[str, str], Tally] = {}
        self._strayed: set[tuple[str, str]] = set()
        self._lost_tallies = False
        self._writing: dict[str, int] = {}
        self._names = names
        self._books: dict[str, Book] = {}
        self._adopted: set[str] = set()
        self._handing_over: str | None = None
        self._sessions.is_pinned = lambda session: (
            session.session_id in self.unhanded
            or session.session_id in self._writing
            or session.session_id == self._handing_over
        )

    @property
    def strays(self) -> list[Tally]:
        """Tallies of sessions that are not here, to be handed over from the front and then taken out."""
        with self._lock:
            if not self._strays:
                self._strays, self._later_strays = list(self._later_strays.values()), {}
            return self._strays

    def session_channel(self, conversation_id: str, session_id: str) -> str:
        return self._names.session_channel(conversation_id, session_id)

    def channel(self, ref: TaskRef) -> str:
        return self._names.channel(ref)

    def cancel_channel(self, ref: TaskRef) -> str:
        return self._names.cancel_channel(ref)

    # What was known before

    def adopt(self, conversation_id: str, known: KnownConversation, turns: Callable[[str], Sequence[Turn]]) -> None:
        """Take in what was known of a conversation; what is here already, or was deleted, stays so."""
        with self._lock:
            now = self._clock()
            self._adopted.add(conversation_id)
            for session_id, session in known.sessions.items():
                if f"session:{session_id}" in self._tombstones or now >= session.record["expires"]:
                    continue
                if self._sessions.get(session_id) is None:
                    self._adopt(conversation_id, session_id, known, turns(session_id))
            conversation = self._conversations.get(conversation_id)
            if conversation is None:
                return
            for key, (task_id, session_id) in known.keys.items():
                held = conversation.sessions.get(session_id)
                if held is not None:
                    conversation.keys.setdefault(key, (task_id, session_id, held.record["expires"]))

    def _adopt(
        self, conversation_id: str, session_id: str, conversation: KnownConversation, turns: Sequence[Turn]
    ) -> None:
        known = conversation.sessions[session_id]
        held = HeldSession(session_id, conversation_id, known.record.copy(), {})
        book = Book(there=True, partial=not known.is_whole)
        if known.is_whole:
            held.fields, held.turn_count = dict(known.fields or {}), known.turn_count or 0
            if turns and turns[-1].position == held.turn_count - 1:
                held.turns = deque(turns, maxlen=self.limits.max_turns)
            book.fields, book.turns = dict(held.fields), held.turn_count
            book.unseen = len(held.turns) < min(held.turn_count, KEPT_TURNS, self.limits.max_turns)
        for task_id, record in conversation.tasks.items():
            if record["session"] != session_id:
                continue
            record = record.copy()
            self._last_epoch = max(self._last_epoch, record["epoch"])
            if TaskState(record["state"]).live and task_id not in conversation.lost:
                record["deadline"] = self.began + FAR
            held.tasks[task_id] = HeldTask(record, deque(maxlen=self.limits.max_events))
            book.elsewhere.add(task_id)
            if conversation.ours.get(task_id) == record["epoch"]:
                book.ours.add(task_id)
            if "cancel" in record:
                book.stopping.add(task_id)
        try:
            self._sessions.put(held)
        except StoreFull:
            self._adopted.discard(conversation_id)
            return
        self._books[session_id] = book
        self._conversations.setdefault(conversation_id, HeldConversation()).sessions[session_id] = held

    def _book(self, session_id: str) -> Book:
        return self._books.setdefault(session_id, Book())

    def knows_of(self, conversation_id: str) -> bool:
        """Whether what was known of a conversation was adopted."""
        return conversation_id in self._adopted

    @property
    def has_adopted(self) -> bool:
        """Whether there is anything of before."""
        return bool(self._adopted)

    def is_elsewhere(self, ref: TaskRef) -> bool:
        """Whether the task is known, and worked on by another process, or over: its events are not here."""
        book = self._books.get(ref.session_id)
        return book is not None and ref.task_id in book.elsewhere

    def is_deleted(self, session_id: str) -> bool:
        """Whether the session was deleted here."""
        with self._lock:
            return f"session:{session_id}" in self._tombstones

    def knows(self, ref: TaskRef) -> bool:
        """Whether the task is here, or known from before."""
        with self._lock:
            return self._held(ref)[1] is not None

    def _is_partial(self, session_id: str) -> bool:
        """Whether a session is known by its status alone; what is written to it here does not change that."""
        book = self._books.get(session_id)
        return book is not None and book.partial

    # The steps that differ

    def session(self, session_id: str) -> Session | None:
        with self._lock:
            return None if self._is_partial(session_id) else super().session(session_id)

    def _listed(self, namespace_id: str | None) -> Iterator[HeldSession]:
        return (session for session in super()._listed(namespace_id) if not self._is_partial(session.session_id))

    def turns(self, session_id: str, before: int | None, limit: int) -> Sequence[Turn] | None:
        with self._lock:
            if self._is_partial(session_id):
                return None
            self._check_seen(session_id, before, limit)
            return super().turns(session_id, before, limit)

    def _check_seen(self, session_id: str, before: int | None, limit: int) -> None:
        """Raise StoreUnavailable when turns that are kept are asked for, and are not here.

        Of a long session its last turns are all that is told, as long as any of them is asked for.
        """
        held, book = self._sessions.get(session_id), self._books.get(session_id)
        if held is None or book is None or not book.there:
            return
        first = held.turn_count - len(held.turns)
        stop = held.turn_count if before is None else min(before, held.turn_count)
        wanted = max(0, held.turn_count - self.limits.max_turns, stop - limit)
        if wanted < min(first, stop) and (book.unseen or stop <= first):
            raise StoreUnavailable("These turns can be read once Redis is back.")

    def add_turns(
        self, session_id: str, turns: Sequence[Turn], fields: Mapping[str, str | None]
    ) -> Sequence[Turn] | None:
        with self._lock:
            held = self._sessions.get(session_id)
            if held is not None and "language" not in held.fields:  # nothing was begun in it that could make it again
                return None
        return super().add_turns(session_id, turns, fields)

    def create_session(self, draft: SessionDraft, own: bool = True) -> None:
        super().create_session(draft, own)
        self._made(draft, own)

    def _made(self, draft: SessionDraft, own: bool) -> None:
        """Take note of what a session was made with, unless it was there before."""
        with self._lock:
            book = self._book(draft.session_id)
            if not book.there and not book.made:
                # One of its id may have been deleted so long ago that it can be made again.
                self.deleted.pop(draft.session_id, None)
                self.buried.pop(draft.session_id, None)
                book.made, book.own = True, own and draft.created_at is None
                book.fields = session_fields(draft.language, draft.device_type, draft.client_version, draft.metadata)

    def begin(self, session: SessionDraft, task: TaskDraft, if_running: str = "allow", own: bool = True) -> Begun:
        with self._lock:
            held = self._sessions.get(session.session_id)
            book = self._books.get(session.session_id)
            if held is not None and book is not None and "language" not in held.fields:
                held.fields = {
                    **session_fields(session.language, session.device_type, session.client_version, session.metadata),
                    **held.fields,
                }
                book.fields = dict(held.fields)
            healed = None
            if held is not None and book is not None and task.task_id in book.elsewhere:
                known = held.tasks.get(task.task_id)
                if known is not None and known.record["epoch"] <= (task.epoch or 0):
                    # The outbox has its events, and makes it again; what was seen of it may be from before its claim.
                    healed = held.tasks.pop(task.task_id)
        try:
            begun = super().begin(session, task, if_running, own)
        except BaseException:
            with self._lock:
                if held is not None and healed is not None:
                    held.tasks.setdefault(task.task_id, healed)
            raise
        self._made(session, own)
        with self._lock:
            self._book(session.session_id).elsewhere.discard(task.task_id)
            made = self._sessions.get(session.session_id)
            if healed is not None and made is not None and "cancel" in healed.record:
                made.tasks[task.task_id].record.setdefault("cancel", healed.record["cancel"])
            return replace(begun, stopping=self._heard_of(session.conversation_id, begun.stopping))

    def _stopping(self, conversation_id: str, record: TaskRecord, now: int) -> list[str]:
        return self._heard_of(conversation_id, super()._stopping(conversation_id, record, now))

    def _heard_of(self, conversation_id: str, task_ids: Sequence[str]) -> list[str]:
        """Those of the tasks whose end can be heard of here: for others nobody is to wait."""
        sessions = self._conversations.get(conversation_id, HeldConversation()).sessions
        books = [book for session_id in sessions if (book := self._books.get(session_id)) is not None]
        return [
            task_id
            for task_id in task_ids
            if not any(task_id in book.elsewhere and task_id not in book.ours for book in books)
        ]

    def claim(self, ref: TaskRef, token: str) -> Begun | None:
        self._refuse_elsewhere(ref)
        return super().claim(ref, token)

    def claimed(self, ref: TaskRef, token: str) -> Begun | None:
        self._refuse_elsewhere(ref)
        return super().claimed(ref, token)

    def _refuse_elsewhere(self, ref: TaskRef) -> None:
        if self.is_elsewhere(ref):
            raise StoreUnavailable("What became of this task is not known while Redis is away.")

    def _find(
        self, ref: TaskRef, attempt: int, epoch: int, now: int
    ) -> tuple[Answer, None, None] | tuple[None, HeldSession, HeldTask]:
        if self.is_elsewhere(ref) and f"task:{ref.task_id}" not in self._tombstones:
            return Answer(Verdict.MISSING), None, None
        return super()._find(ref, attempt, epoch, now)

    def cancel(self, ref: TaskRef) -> Task | None:
        if not self.is_elsewhere(ref):
            return super().cancel(ref)
        with self._step() as now:
            session, task = self._held(ref)
            if session is None or task is None:
                return None
            if TaskState(task.record["state"]).live:
                task.record.setdefault("cancel", now)
            return self._task(session, ref.task_id, task, now)

    def events(self, ref: TaskRef, after: Cursor, limit: int) -> Page | None:
        if self.is_elsewhere(ref) and f"task:{ref.task_id}" not in self._tombstones:
            raise StoreUnavailable("These events can be read once Redis is back.")
        return super().events(ref, after, limit)

    def result(self, session_id: str, task_id: str) -> str | None:
        book = self._books.get(session_id)
        if book is not None and task_id in book.elsewhere:
            raise StoreUnavailable("This result can be read once Redis is back.")
        return super().result(session_id, task_id)

    def traceback(self, session_id: str, task_id: str) -> str | None:
        book = self._books.get(session_id)
        if book is not None and task_id in book.elsewhere:
            raise StoreUnavailable("This traceback can be read once Redis is back.")
        return super().traceback(session_id, task_id)

    def delete_session(self, session_id: str) -> bool:
        with self._lock:
            session = self._sessions.get(session_id)
            if session is not None:
                self._make_room_for_deleted()
                there = self._book(session_id).there
        deleted = super().delete_session(session_id)
        if session is not None and deleted:
            tickets = (task.record.get("ticket", 0) for task in session.tasks.values())
            with self._lock:
                until = max(self._clock() + self.limits.session_ttl, session.record["expires"], *tickets)
                self.deleted[session_id] = Deleted(
                    session_id, session.conversation_id, session.record.get("ns"), list(session.tasks), until, there
                )
        return deleted

    def _make_room_for_deleted(self) -> None:
        """As many deleted sessions as the memory holds living ones are taken note of. Raises StoreFull.

        One that the other store has waits for it: whether it lives on there is not known.
        """
        maximum, now = self.limits.max_sessions, self._clock()
        if len(self.deleted) + len(self.buried) < maximum:
            return
        for session_id in [name for name, each in self.deleted.items() if now >= each.until and not each.there]:
            del self.deleted[session_id]
        for session_id in [name for name, each in self.buried.items() if now >= each.until]:
            del self.buried[session_id]
        if len(self.deleted) + len(self.buried) >= maximum:
            raise StoreFull(f"{maximum} deleted sessions wait for Redis, as many as may. Try again once it is back.")

    def _tally(self, tally: Tally, now: int) -> bool:
        session = self._sessions.get(tally.session_id)
        if session is None:
            self._stray(tally)
            return True
        if tally.number > int(session.fields.get(f"tally:{tally.writer}", 0)):
            book = self._book(tally.session_id)
            last = book.tallies[-1] if book.tallies else None
            # The first may have reached the other store before; whatever was tried stays as it was.
            if last is not None and last.writer == tally.writer and len(book.tallies) > max(1, book.tried):
                book.tallies[-1] = _merged(last, tally)
            else:
                book.tallies.append(tally)
        return super()._tally(tally, now)

    def _stray(self, tally: Tally) -> None:
        """Of each session and writer the first may have reached the other store before; those after it are one."""
        of = tally.session_id, tally.writer
        if of not in self._strayed:
            if len(self._strayed) >= self.limits.max_sessions:
                if not self._lost_tallies:
                    self._lost_tallies = True
                    log.warning("What is counted of further sessions that are not known here is lost.")
                return
            self._strayed.add(of)
            self._strays.append(tally)
            return
        known = self._later_strays.pop(of, None)
        self._later_strays[of] = _merged(known, tally) if known is not None else tally

    def _drop(self, session: HeldSession, evicted: bool) -> None:
        super()._drop(session, evicted)
        self._books.pop(session.session_id, None)
        if evicted:
            self._adopted.discard(session.conversation_id)


def _merged(earlier: Tally, later: Tally) -> Tally:
    amounts = {**earlier.amounts}
    for name, amount in later.amounts.items():
        amounts[name] = amounts.get(name, 0) + amount
    return replace(later, amounts=amounts)
