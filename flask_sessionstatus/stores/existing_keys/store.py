"""A store that shows, beside its own, the sessions that other programs write under keys of theirs.

Such a session has exactly one task, whose id is the session's. Its cursors are the ids of its stream, it has no owner
and no lease, and nothing of it is ever written but the request to stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from cachetools import LRUCache

from ...errors import Forbidden, NotFound
from ...models import ORIGIN, Cursor, Session, Task, Turn
from ..base import OnWakeup, Page, TaskRef, Wakeups
from ..codec import Snapshot, session_fields, session_from, task_at
from ..redis import RedisStore
from ..wrapper import StoreWrapper
from .discovery import Discovery
from .entries import Decoder, Troubles
from .index import Index
from .reading import CANCELLED_FOR, Reading
from .shown import Shown
from .templates import ExistingKeys, Place

MANY = 256
"""Sessions of one conversation that are read together; of more, those that were written to last."""

SETTLE = 1000
"""Ms: for so long followers of a session whose status says that it is over wait for the end in its stream."""

REMEMBERED = 4096


class ExistingKeysStore(StoreWrapper):
    """Sessions in Redis, and those that other programs keep there under the names that `keys` says.

    `language` is that of their sessions, which name none. Nothing is looked for before the first use.
    """

    def __init__(
        self, store: RedisStore, keys: ExistingKeys, *, language: str = "nl", index: Index | None = None
    ) -> None:
        super().__init__(store)
        self._redis = store
        self._keys = keys
        self._language = language
        troubles = Troubles(store.counting)
        self._decoder = Decoder(troubles)
        self._index = index or Index()
        self._reading = Reading(store.calls, keys, troubles)
        self._discovery = Discovery(store.calls, keys, self._index, troubles, store.announcements, self._reading.forget)
        self._lock = threading.Lock()
        self._asked: LRUCache[Place, None] = LRUCache(REMEMBERED)
        self._over: LRUCache[Place, float] = LRUCache(REMEMBERED)

    @property
    def recovering(self) -> bool:
        """Also as long as it is not known which sessions of other programs there are."""
        self._discovery.start()
        return self._redis.recovering or not self._discovery.is_complete

    def close(self) -> None:
        self._discovery.close()
        super().close()

    # What is read

    def snapshot(self, conversation_id: str) -> Snapshot:
        self._discovery.start()
        self._discovery.wait()
        session_ids = self._index.sessions(conversation_id)
        if not session_ids:
            return self._redis.snapshot(conversation_id)
        places = self._latest([Place(conversation_id, session_id) for session_id in session_ids])
        steps = [step for place in places for step in self._reading.steps(place)]
        own, replies = self._redis.snapshot_with(conversation_id, steps)
        shown = self._reading.shown(places, replies, own.now, misplaced=self._discovery.misplaced)
        return self._together(own, shown)

    def _latest(self, places: list[Place]) -> list[Place]:
        """The places themselves, unless they are too many: then the latest of them, at the cost of one more look."""
        if len(places) <= MANY:
            return places
        return self._reading.latest(places, MANY)

    def _together(self, own: Snapshot, shown: Iterable[Shown]) -> Snapshot:
        """A session of our own goes before one of another program that has the same id."""
        sessions, tasks = dict(own.sessions), dict(own.tasks)
        for each in shown:
            session_id = each.place.session_id
            self._remember(each.place)
            if session_id not in sessions and session_id not in tasks:
                started = self._reading.started(each)
                sessions[session_id] = each.session_record(started, self.limits)
                tasks[session_id] = each.task_record(started, self.limits)
        return Snapshot(own.conversation_id, own.now, sessions, tasks, own.grace)

    def _find(self, session_id: str) -> Shown | None:
        """Another program's session by its id alone. None where two conversations have one: neither is guessed at."""
        self._discovery.start()
        self._discovery.wait()
        conversations = self._index.conversations(session_id)
        if len(conversations) != 1:
            return None
        return self._look(Place(conversations[0], session_id))

    def _look(self, place: Place, after: Cursor = ORIGIN, limit: int = 0) -> Shown | None:
        steps = self._reading.steps(place, after, limit)
        replies = self._redis.calls.batch(*steps)
        shown = self._reading.shown([place], replies, after=after, limit=limit, misplaced=self._discovery.misplaced)
        return shown[0] if shown else None

    def session(self, session_id: str) -> Session | None:
        own = self._redis.session(session_id)
        shown = self._find(session_id) if own is None else None
        if shown is None:
            return own
        nothing = Snapshot(shown.place.conversation_id, shown.now, {}, {}, self._redis.grace)
        return session_from(
            self._together(nothing, [shown]), session_id, session_fields(self._language, None, None, {})
        )

    def task(self, session_id: str, task_id: str) -> Task | None:
        own = self._redis.task(session_id, task_id)
        if own is not None or task_id != session_id:
            return own
        shown = self._find(session_id)
        return self._task(shown) if shown is not None else None

    def tasks(self, session_id: str, limit: int) -> Sequence[Task] | None:
        own = self._redis.tasks(session_id, limit)
        shown = self._find(session_id) if own is None else None
        return own if shown is None else [self._task(shown)][:limit]

    def _task(self, shown: Shown) -> Task:
        record = shown.task_record(self._reading.started(shown), self.limits)
        place = shown.place
        return task_at(record, place.session_id, place.conversation_id, None, shown.now, self._redis.grace)

    def events(self, ref: TaskRef, after: Cursor, limit: int) -> Page | None:
        if not self._is_foreign(ref):
            return self._redis.events(ref, after, limit)
        shown = self._look(Place(ref.conversation_id, ref.session_id), after, limit)
        if shown is None:
            if self.recovering:
                return None
            raise NotFound("The session is no longer there.", sessionId=ref.session_id, taskId=ref.task_id)
        first = shown.first.cursor if shown.first is not None else None
        return Page(shown.now, self._followed(shown), first, shown.events(after, self._decoder))

    def _followed(self, shown: Shown) -> Task:
        """The task as followers see it: one whose status says that it is over, and whose stream does not, may still
        get its end. For a moment it runs."""
        now = time.monotonic()
        with self._lock:
            if not shown.may_still_end:
                self._over.pop(shown.place, None)
                return self._task(shown)
            since = self._over.setdefault(shown.place, now)
        left = SETTLE - round((now - since) * 1000)
        return self._task(shown.still_running(left) if left > 0 else shown)

    def _is_foreign(self, ref: TaskRef) -> bool:
        """No task of our own has the id of its session, unless somebody chose it so. Who follows one that is gone
        meanwhile still means that one."""
        place = Place(ref.conversation_id, ref.session_id)
        if ref.task_id != ref.session_id:
            return False
        if place in self._index:
            self._remember(place)
        with self._lock:
            return place in self._asked

    def _remember(self, place: Place) -> None:
        with self._lock:
            self._asked[place] = None

    def turns(self, session_id: str, before: int | None, limit: int) -> Sequence[Turn] | None:
        own = self._redis.turns(session_id, before, limit)
        return [] if own is None and self._find(session_id) is not None else own

    # What is asked for

    def cancel(self, ref: TaskRef) -> Task | None:
        if not self._is_foreign(ref):
            return self._redis.cancel(ref)
        shown = self._look(Place(ref.conversation_id, ref.session_id))
        if shown is None:
            return None
        task = self._task(shown)
        if not task.state.live or task.cancel_requested_at is not None or self._keys.cancel is None:
            return task
        key = self._keys.cancel.key(shown.place)
        self._redis.calls.command("SET", key, "true", "EX", CANCELLED_FOR // 1000)
        self._reading.asked(shown.place, shown.now)
        return self._task(shown.asked(shown.now))

    def touch(self, session_ids: Sequence[str]) -> Sequence[bool | Exception]:
        """Their sessions live as long as their programs say."""
        answers = self._redis.touch(session_ids)
        return [
            answer if answer is not False else bool(self._index.conversations(session_id))
            for session_id, answer in zip(session_ids, answers)
        ]

    def update_session(self, session_id: str, fields: Mapping[str, str | None]) -> bool:
        return self._redis.update_session(session_id, fields) or self._refuse(session_id)

    def add_turns(
        self, session_id: str, turns: Sequence[Turn], fields: Mapping[str, str | None]
    ) -> Sequence[Turn] | None:
        stored = self._redis.add_turns(session_id, turns, fields)
        if stored is None:
            self._refuse(session_id)
        return stored

    def delete_session(self, session_id: str) -> bool:
        return self._redis.delete_session(session_id) or self._refuse(session_id)

    def _refuse(self, session_id: str) -> bool:
        """False when there is no such session. Raises Forbidden when it is another program's."""
        if self._find(session_id) is None:
            return False
        raise Forbidden("The session is another program's: it can be read and stopped only.", sessionId=session_id)

    # Wake-ups

    def channel(self, ref: TaskRef) -> str:
        """Another program's session has the names of its stream and of its status, a line each."""
        if not self._is_foreign(ref):
            return self._redis.channel(ref)
        place = Place(ref.conversation_id, ref.session_id)
        templates = [each for each in (self._keys.stream, self._keys.status) if each is not None]
        return "".join(f"{template.key(place)}\n" for template in templates)

    def wakeups(self, on_wakeup: OnWakeup) -> Wakeups:
        return ExistingWakeups(self._redis.wakeups(on_wakeup), self._discovery, on_wakeup)


class ExistingWakeups(Wakeups):
    """Our own wake-ups, and the changes of other programs' keys as such."""

    def __init__(self, own: Wakeups, discovery: Discovery, on_wakeup: OnWakeup) -> None:
        self._own = own
        self._discovery = discovery
        self._on_wakeup = on_wakeup

    @property
    def healthy(self) -> bool:
        return self._own.healthy

    def watch(self, channel: str) -> None:
        if "\n" in channel:
            self._discovery.watch(channel, self._on_wakeup)
        else:
            self._own.watch(channel)

    def forget(self, channel: str) -> None:
        if "\n" in channel:
            self._discovery.forget(channel)
        else:
            self._own.forget(channel)

    def close(self) -> None:
        self._own.close()
