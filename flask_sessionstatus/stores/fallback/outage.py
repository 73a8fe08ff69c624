"""The memory of one outage, and what of it is to be handed over."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from ...models import Cursor, Event, Session, utf8_size
from ..base import SessionDraft, TaskRef
from ..carried import CarriedSession, CarriedTask
from .books import Bundle, is_counted
from .memory import AdoptingMemory

BATCH_EVENTS = 500
BATCH_BYTES = 262_144


class OutageMemory(AdoptingMemory):
    """It keeps books of what the other store has not heard of yet; until it has, nothing of that is evicted."""

    def touched(self, session_id: str) -> None:
        """Something of the session was written, or could not be handed over."""
        with self._lock:
            self.unhanded[session_id] = None

    @contextmanager
    def writing(self, session_ids: Collection[str]) -> Iterator[None]:
        """Whatever of these sessions is here afterwards is to be handed over, and none of them is evicted meanwhile."""
        with self._lock:
            for session_id in session_ids:
                self._writing[session_id] = self._writing.get(session_id, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                for session_id in session_ids:
                    self._writing[session_id] -= 1
                    if not self._writing[session_id]:
                        del self._writing[session_id]
                    held = self._sessions.get(session_id)
                    if held is not None and session_id not in self.unhanded:
                        self.unhanded[session_id] = None
                        self._sessions.put(held)  # from here on where nothing is evicted
                    elif held is None and session_id not in self._writing:
                        self.unhanded.pop(session_id, None)

    def next_unhanded(self) -> str | None:
        """Take the session that has waited longest; it is kept from eviction until the next one is taken."""
        with self._lock:
            self._handing_over = next(iter(self.unhanded), None)
            if self._handing_over is not None:
                del self.unhanded[self._handing_over]
            return self._handing_over

    def bundle(self, session_id: str, *, whole: bool = False) -> Bundle | None:
        """What is to be handed over of a session; `whole`: all that is known of it. None: it is not here any more."""
        with self._lock:
            held = self._sessions.get(session_id)
            if held is None:
                return None
            book, now, record = self._book(session_id), self._clock(), held.record
            if book.first is None:
                book.first = dict(book.fields), book.turns, set(book.stopping)
            book.handed = True
            fields = {name: text for name, text in held.fields.items() if not is_counted(name)}
            counted = {name: text for name, text in book.first[0].items() if is_counted(name)}
            if whole:
                book.tasks.clear()
            whole = whole or not book.there
            from_position = 0 if whole else book.turns
            turns = [turn for turn in held.turns if turn.position >= from_position]
            draft = SessionDraft(
                session_id=session_id,
                conversation_id=held.conversation_id,
                namespace_id=record.get("ns"),
                language=held.fields.get("language", ""),
                created_at=record["created"],
                for_socket=record.get("socket", False),
                key=record.get("key"),
            )
            carried = CarriedSession(
                draft,
                record["created"],
                record["activity"],
                record["expires"] - now,
                {name: text for name, text in fields.items() if book.fields.get(name) != text},
                [name for name in book.fields if name not in fields and not is_counted(name)],
                turns,
                turns[0].position if turns else held.turn_count,
                {**fields, **counted} if whole and "language" in held.fields else None,
                book.own,
            )
            refs = [TaskRef(held.conversation_id, session_id, task_id) for task_id in held.tasks]
            book.tried = len(book.tallies)
            return Bundle(
                carried,
                fields,
                held.turn_count,
                [
                    ref
                    for ref in refs
                    if ref.task_id not in book.elsewhere
                    and book.tasks.get(ref.task_id) != held.tasks[ref.task_id].record
                ],
                [
                    ref
                    for ref in refs
                    if ref.task_id in book.elsewhere
                    and "cancel" in held.tasks[ref.task_id].record
                    and ref.task_id not in book.stopping
                ],
                list(book.tallies),
            )

    def task_bundle(self, ref: TaskRef, after: Cursor, *, only_look: bool = False) -> CarriedTask | None:
        """A task and its events after a cursor, at most 500 and 256 KiB; None: it is not here any more."""
        with self._lock:
            session, task = self._held(ref)
            if session is None or task is None:
                return None
            events: list[Event] = []
            size, complete = 0, not only_look
            first = _first_after(task.events, after) if not only_look else len(task.events)
            for event in islice(task.events, first, None):
                size += utf8_size(event.json)
                if events and (len(events) == BATCH_EVENTS or size > BATCH_BYTES):
                    complete = False
                    break
                events.append(event)
            conversation = self._conversations[session.conversation_id]
            keys = [key for key, used in conversation.keys.items() if used[0] == ref.task_id]
            left = max(0, task.record["deadline"] - self._clock())
            key = keys[0] if keys else None
            return CarriedTask(ref, task.record.copy(), left, after, events, complete, task.result, task.traceback, key)

    def took_session(self, session_id: str, bundle: Bundle, position: int) -> None:
        """The other store has the session as it was bundled, and its turns before a position."""
        with self._lock:
            book = self._book(session_id)
            book.there, book.fields, book.turns = True, dict(bundle.fields), position

    def took_task(self, carried: CarriedTask) -> None:
        """The other store has the task as it was bundled, or will not have it."""
        with self._lock:
            self._book(carried.ref.session_id).tasks[carried.ref.task_id] = carried.record

    def took_stop(self, ref: TaskRef) -> None:
        with self._lock:
            self._book(ref.session_id).stopping.add(ref.task_id)

    def took_deleted(self, session_id: str) -> None:
        """The other store has a tombstone on the session."""
        with self._lock:
            deleted = self.deleted.pop(session_id, None)
            if deleted is not None:
                self.buried[session_id] = deleted

    def doubt(self) -> None:
        """The other store may have lost what it got, or may not have got what was sent: all is to be handed over
        anew."""
        with self._lock:
            self.deleted.update(self.buried)
            self.buried.clear()
            for session_id, book in self._books.items():
                if book.handed and book.first is not None:
                    book.doubt = True
                    book.fields, book.stopping = dict(book.first[0]), set(book.first[2])
                    book.tasks.clear()
                    self.unhanded[session_id] = None

    def is_doubted(self, session_id: str) -> bool:
        """Whether it has to be seen first which turns of a session the other store has."""
        with self._lock:
            book = self._books.get(session_id)
            return book is not None and book.doubt and self._sessions.get(session_id) is not None

    def has_turns(self, session_id: str, turn_ids: Collection[str | None]) -> None:
        """The other store has these among its last turns of the session: ours that come later are to be sent."""
        with self._lock:
            held, book = self._sessions.get(session_id), self._book(session_id)
            if held is None or book.first is None:
                return
            there = (turn.position for turn in reversed(held.turns) if turn.turn_id in turn_ids)
            book.turns = max(book.first[1], next(there, -1) + 1)
            book.doubt = False

    def as_known(self, session_id: str) -> Session | None:
        """The session as it is to be known in the next outage: of what runs elsewhere nothing new is known."""
        session = self.session(session_id)
        task = session.latest_task if session is not None else None
        if session is None or task is None:
            return session
        ref = TaskRef(session.conversation_id, session_id, task.task_id)
        return replace(session, latest_task=None) if self.is_elsewhere(ref) else session

    def refused(self, session_id: str) -> None:
        """The other store will not have this session: it was deleted there, or is somebody else's."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is not None:
                self._sessions.remove(session)
                self._drop(session, False)

    @property
    def created(self) -> int:
        """How many sessions were made in this outage."""
        return self._totals["sessions_created"]

    def holds(self) -> tuple[int, int, int]:
        """How many sessions, turns and events there are here that have not been handed over."""
        sessions = turns = events = 0
        with self._lock:
            for session_id in list(self.unhanded):
                held = self._sessions.get(session_id)
                if held is not None:
                    book = self._book(session_id)
                    sessions += 1
                    turns += max(0, held.turn_count - book.turns)
                    events += sum(
                        len(task.events)
                        for task_id, task in held.tasks.items()
                        if book.tasks.get(task_id) != task.record
                    )
        return sessions + len(self.deleted), turns, events


def _first_after(events: deque[Event], after: Cursor) -> int:
    """Where in `events` those after a cursor begin; found from the end."""
    first = len(events)
    for event in reversed(events):
        if event.cursor <= after:
            break
        first -= 1
    return first
