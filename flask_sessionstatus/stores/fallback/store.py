"""Redis while it answers; while it does not, this process's own memory, until what was written there is handed over.

Each process has a world of its own meanwhile. What it knew of Redis is adopted when it is needed; what it did not know
is unknown, never absent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar
from uuid import uuid4

from ...errors import StoreUnavailable
from ...models import Cursor, Session, Task, Turn
from ..base import (
    Answer,
    Append,
    Beat,
    Begun,
    Counters,
    OnWakeup,
    Page,
    SessionDraft,
    SessionPage,
    Store,
    StoreAway,
    Tally,
    TaskDraft,
    TaskRef,
    Verdict,
    Wakeups,
    Wanted,
)
from ..codec import Snapshot
from ..redis import RedisStore
from ..redis.circuit import Unsent
from .clock import StoreClock
from .mirror import Mirror
from .outage import OutageMemory
from .switch import Switch

T = TypeVar("T")


class FallbackStore(Store):
    """`store` answers while `redis`, which is behind it or is it, can be reached; `monotonic` (s) and `wall` (Unix ms)
    are this machine's clocks."""

    name = "redis"

    def __init__(
        self,
        redis: RedisStore,
        store: Store | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._redis = redis
        self._store = store if store is not None else redis
        self.limits = redis.limits
        self.counting = redis.counting
        self._clock = StoreClock(monotonic, wall)
        self._mirror = Mirror(redis.limits.max_sessions)
        self._switch = Switch(self._store, redis, self._clock, self._mirror)
        self._totals = Counters()

    @property
    def degraded(self) -> bool:
        return self._switch.outage is not None

    @property
    def recovering(self) -> bool:
        return self.degraded or self._store.recovering

    def is_gone(self, session_id: str) -> bool:
        outage = self._switch.outage
        return outage is not None and outage.memory.is_deleted(session_id)

    def can_follow(self, ref: TaskRef) -> bool:
        outage = self._switch.outage
        if outage is None:
            return True
        self._switch.adopt(outage, ref.conversation_id)
        return not outage.memory.is_elsewhere(ref)

    def hand_over(self, timeout: float) -> bool:
        return self._switch.hand_over(timeout)

    def close(self) -> None:
        self._switch.close()
        self._store.close()

    def ping(self) -> None:
        self._switch.read(None, self._store.ping, OutageMemory.ping)

    def active_sessions(self) -> int | None:
        return self._switch.read(None, self._store.active_sessions, OutageMemory.active_sessions)

    def totals(self) -> Counters:
        def there() -> Counters:
            self._totals = self._store.totals()
            return self._totals

        def here(memory: OutageMemory) -> Counters:
            known, new = self._totals, memory.totals()
            return Counters(**{name: amount + getattr(new, name) for name, amount in known.__dict__.items()})

        return self._switch.read(None, there, here)

    def snapshot(self, conversation_id: str) -> Snapshot:
        def there() -> Snapshot:
            snapshot = self._store.snapshot(conversation_id)
            self._clock.learn(snapshot.now)
            self._mirror.saw(snapshot)
            return snapshot

        def here(memory: OutageMemory) -> Snapshot:
            snapshot = memory.snapshot(conversation_id)
            known = self._mirror.conversation(conversation_id)
            if known is not None and known.others_run and not any(map(snapshot.is_live, snapshot.tasks.values())):
                raise StoreUnavailable("What another program does here is not known while Redis is away.")
            return snapshot

        return self._switch.read(conversation_id, there, here)

    # Sessions

    def create_session(self, draft: SessionDraft, own: bool = True) -> None:
        self._switch.write(
            draft.session_id,
            draft.conversation_id,
            lambda: self._store.create_session(draft, own),
            lambda memory: memory.create_session(draft, own),
        )

    def session(self, session_id: str) -> Session | None:
        def there() -> Session | None:
            session = self._store.session(session_id)
            if session is None:
                self._mirror.forget(session_id)
            else:
                self._saw_session(session)
            return session

        return self._switch.read(self._mirror.where(session_id), there, lambda memory: memory.session(session_id))

    def _saw_session(self, session: Session) -> None:
        if session.seen_at:
            self._clock.learn(session.seen_at)
        if session.latest_task is None or not session.latest_task.foreign:
            self._mirror.saw_session(session)

    def sessions(
        self, namespace_id: str | None, limit: int, after: str | None, wanted: Wanted | None = None
    ) -> SessionPage:
        def there() -> SessionPage:
            page = self._store.sessions(namespace_id, limit, after, wanted)
            for session in page.sessions:
                self._mirror.saw_session(session)
            return page

        def here(memory: OutageMemory) -> SessionPage:
            outage = self._switch.outage
            if outage is not None and namespace_id not in outage.listed:
                outage.listed.add(namespace_id)
                for conversation_id in self._mirror.of(namespace_id):
                    self._switch.adopt(outage, conversation_id)
            return memory.sessions(namespace_id, limit, after, wanted)

        return self._switch.read(None, there, here)

    def update_session(self, session_id: str, fields: Mapping[str, str | None]) -> bool:
        return self.add_turns(session_id, (), fields) is not None

    def add_turns(
        self, session_id: str, turns: Sequence[Turn], fields: Mapping[str, str | None]
    ) -> Sequence[Turn] | None:
        # A call that is taken for lost may have got through: only an id tells.
        named = [turn if turn.turn_id is not None else replace(turn, turn_id=uuid4().hex) for turn in turns]

        def there() -> Sequence[Turn] | None:
            stored = self._store.add_turns(session_id, named, fields)
            if stored is None:
                self._mirror.forget(session_id)
            else:
                now = stored[-1].timestamp if stored else self._clock()
                self._mirror.saw_fields(session_id, fields, now, self.limits.session_ttl)
                self._mirror.saw_turns(session_id, stored, latest=True)
            return stored

        return self._switch.write(
            session_id,
            self._mirror.where(session_id),
            there,
            lambda memory: memory.add_turns(session_id, named, fields),
        )

    def turns(self, session_id: str, before: int | None, limit: int) -> Sequence[Turn] | None:
        def there() -> Sequence[Turn] | None:
            turns = self._store.turns(session_id, before, limit)
            if turns is not None:
                self._mirror.saw_turns(session_id, turns, latest=before is None)
            return turns

        return self._switch.read(
            self._mirror.where(session_id), there, lambda memory: memory.turns(session_id, before, limit)
        )

    def touch(self, session_ids: Sequence[str]) -> Sequence[bool | Exception]:
        return self._switch.write_each(session_ids, self._at, self._store.touch, OutageMemory.touch)

    def tally(self, tallies: Sequence[Tally]) -> Sequence[bool | Exception]:
        return self._switch.write_each(
            tallies, lambda each: self._at(each.session_id), self._store.tally, OutageMemory.tally
        )

    def _at(self, session_id: str) -> tuple[str, str | None]:
        return session_id, self._mirror.where(session_id)

    def delete_session(self, session_id: str) -> bool:
        def gone(now: int) -> None:
            self._mirror.saw_deleted(session_id, now + self.limits.session_ttl)

        def there() -> bool:
            deleted = self._store.delete_session(session_id)
            gone(self._clock())
            return deleted

        def here(memory: OutageMemory) -> bool:
            deleted = memory.delete_session(session_id)
            if deleted:
                gone(self._clock())
            return deleted

        return self._switch.write(
            session_id,
            self._mirror.where(session_id),
            there,
            here,
        )

    # Tasks

    def begin(self, session: SessionDraft, task: TaskDraft, if_running: str = "allow", own: bool = True) -> Begun:
        def there() -> Begun:
            begun = self._store.begin(session, task, if_running, own)
            self._saw_begun(session, task, begun)
            return begun

        def here(memory: OutageMemory) -> Begun:
            begun = memory.begin(session, task, if_running, own)
            if if_running == "replace":  # others were asked to stop
                for each in memory.snapshot(session.conversation_id).sessions:
                    memory.touched(each)
            return begun

        return self._switch.write(session.session_id, session.conversation_id, there, here)

    def _saw_begun(self, session: SessionDraft, task: TaskDraft, begun: Begun) -> None:
        limits = self.limits
        alive = limits.lease if task.leased else limits.max_pending_age + task.delay
        self._clock.learn(begun.now)
        self._mirror.saw_begun(session, task, begun, limits.session_ttl + (0 if task.leased else alive), alive)

    def claim(self, ref: TaskRef, token: str) -> Begun | None:
        return self._switch.write(
            ref.session_id,
            ref.conversation_id,
            lambda: self._saw_claimed(ref, token, self._store.claim(ref, token)),
            lambda memory: _known(memory.claim(ref, token), memory.knows(ref)),
        )

    def claimed(self, ref: TaskRef, token: str) -> Begun | None:
        return self._switch.read(
            ref.conversation_id,
            lambda: self._saw_claimed(ref, token, self._store.claimed(ref, token)),
            lambda memory: _known(memory.claimed(ref, token), memory.knows(ref)),
        )

    def _saw_claimed(self, ref: TaskRef, token: str, begun: Begun | None) -> Begun | None:
        if begun is not None:
            self._clock.learn(begun.now)
            self._mirror.saw_claimed(ref, token, begun, self.limits.session_ttl, self.limits.lease)
        return begun

    def find_task(self, task_id: str) -> Task | None:
        return self._switch.read(
            None, lambda: self._store.find_task(task_id), lambda memory: _known(memory.find_task(task_id))
        )

    def append(self, appends: Sequence[Append]) -> Sequence[Answer | Exception]:
        def there(some: Sequence[Append]) -> Sequence[Answer | Exception]:
            answers = self._store.append(some)
            for each, answer in zip(some, answers):
                if isinstance(answer, Answer):
                    self._saw_answer(each, answer)
            return answers

        return self._switch.write_each(appends, lambda each: _place(each.ref), there, OutageMemory.append)

    def _saw_answer(self, each: Append | Beat, answer: Answer) -> None:
        end = each.end if isinstance(each, Append) else None
        if answer.verdict in (Verdict.CLOSED, Verdict.DELETED):
            end = None
        elif answer.verdict is not Verdict.STORED or end is None:
            return
        self._mirror.saw_end(each.ref, each.epoch, end, self._clock(), self.limits.session_ttl)

    def beat(self, beats: Sequence[Beat]) -> Sequence[Answer | Exception]:
        def there(some: Sequence[Beat]) -> Sequence[Answer | Exception]:
            answers = self._store.beat(some)
            now = self._clock()
            for each, answer in zip(some, answers):
                if isinstance(answer, Answer):
                    self._saw_answer(each, answer)
                    if answer.verdict is Verdict.STORED:
                        self._mirror.saw_alive(each.ref, now, self.limits.lease, self.limits.session_ttl)
            return answers

        return self._switch.write_each(beats, lambda each: _place(each.ref), there, OutageMemory.beat)

    def cancel(self, ref: TaskRef) -> Task | None:
        def there() -> Task | None:
            task = self._store.cancel(ref)
            if task is not None:
                self._mirror.saw_task(task)
            return task

        return self._switch.write(
            ref.session_id,
            ref.conversation_id,
            there,
            lambda memory: memory.cancel(ref),
        )

    def task(self, session_id: str, task_id: str) -> Task | None:
        return self._switch.read(
            self._mirror.where(session_id),
            lambda: self._store.task(session_id, task_id),
            lambda memory: memory.task(session_id, task_id),
        )

    def tasks(self, session_id: str, limit: int) -> Sequence[Task] | None:
        return self._switch.read(
            self._mirror.where(session_id),
            lambda: self._store.tasks(session_id, limit),
            lambda memory: memory.tasks(session_id, limit),
        )

    def events(self, ref: TaskRef, after: Cursor, limit: int) -> Page | None:
        def there() -> Page | None:
            page = self._store.events(ref, after, limit)
            if page is not None:
                self._clock.learn(page.now)
                self._mirror.saw_task(page.task)
            return page

        return self._switch.read(ref.conversation_id, there, lambda memory: memory.events(ref, after, limit))

    def result(self, session_id: str, task_id: str) -> str | None:
        return self._switch.read(
            self._mirror.where(session_id),
            lambda: self._store.result(session_id, task_id),
            lambda memory: memory.result(session_id, task_id),
        )

    def traceback(self, session_id: str, task_id: str) -> str | None:
        return self._switch.read(
            self._mirror.where(session_id),
            lambda: self._store.traceback(session_id, task_id),
            lambda memory: memory.traceback(session_id, task_id),
        )

    def record_duration(self, type: str, duration: int) -> None:
        def there() -> None:
            try:
                self._store.record_duration(type, duration)
            except StoreAway as error:
                if not isinstance(error.__cause__, Unsent):  # it may have got through: better one too few than two
                    return
                raise

        def here(memory: OutageMemory) -> None:
            memory.record_duration(type, duration)
            memory.durations.append((type, duration))

        self._switch.write(None, None, there, here)

    # Wake-ups

    def hinted(self, ref: TaskRef, hint: bytes) -> tuple[Page, Cursor] | None:
        hinted = self._store.hinted(ref, hint)
        if hinted is not None:
            self._mirror.saw_alive(ref, hinted[0].now, self.limits.lease, self.limits.session_ttl)
        return hinted

    def wakeups(self, on_wakeup: OnWakeup) -> Wakeups:
        return self._switch.wakeups(on_wakeup)

    def session_channel(self, conversation_id: str, session_id: str) -> str:
        return self._store.session_channel(conversation_id, session_id)

    def channel(self, ref: TaskRef) -> str:
        return self._store.channel(ref)

    def cancel_channel(self, ref: TaskRef) -> str:
        return self._store.cancel_channel(ref)


def _known(answer: T | None, known: bool = False) -> T | None:
    """An answer about a task of a queue. Where None would mean unknown it is not to be waited for: that could take very
    long."""
    if answer is None and not known:
        raise StoreUnavailable("This task is not known here while Redis is away. Try again in a moment.")
    return answer


def _place(ref: TaskRef) -> tuple[str, str | None]:
    return ref.session_id, ref.conversation_id
