"""What the suites share: a clock that is moved, stores that live by it, and a job that is driven by hand."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

import redis
from topologies import EveryNode

from flask_sessionstatus.errors import StoreUnavailable
from flask_sessionstatus.models import ORIGIN, Cursor, Event, Task
from flask_sessionstatus.stores.base import (
    Answer,
    Append,
    Beat,
    Begun,
    Change,
    End,
    Limits,
    Page,
    SessionDraft,
    Store,
    TaskDraft,
    TaskRef,
)
from flask_sessionstatus.stores.bounds import STEP
from flask_sessionstatus.stores.fallback import FallbackStore
from flask_sessionstatus.stores.memory import MemoryStore
from flask_sessionstatus.stores.redis import RedisStore, connect
from flask_sessionstatus.stores.redis.calls import Scripts

T = TypeVar("T")
Client = redis.Redis | EveryNode
START = 1_704_123_456_789
LEASE_MS = Limits().lease
NOWHERE = "redis://127.0.0.1:1/0"
"""Nobody listens there."""
STRANGE_IDS = (
    "*",
    "a",
    "a:b",
    "[x]",
    "{x}",
    "conversation:user123:msg456",
    "reservation",
    "%2e",
    "%",
    "ключ",
    "two words",
    "session:s1",
    "lastEpoch",
    "é" * 128,
)

_MOVE = """
redis.replicate_commands()
local time, moved, known, told = redis.call('TIME'), tonumber(ARGV[1]), {}, {}
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i = 2, #ARGV, 3 do known[ARGV[i]] = {deadline = tonumber(ARGV[i + 1]), left = tonumber(ARGV[i + 2])} end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left, before = redis.call('PTTL', key), known[key]
  if left >= 0 then
    -- Nobody set it since the last move: it has what it had then, however long that took.
    if before and math.abs(now + left - before.deadline) <= 5 then left = before.left end
    left = left - moved
    if left <= 0 then redis.call('DEL', key)
    else
      local deadline = string.format('%d', now + math.max(30000, left))
      redis.call('PEXPIREAT', key, deadline)
      for _, part in ipairs({key, deadline, string.format('%d', left)}) do told[#told + 1] = part end
    end
  end
end
return told
"""

LUA_CLOCK = """(function()
  local ms = tonumber(redis.call('GET', 'test:clock'))
  return {string.format('%d', math.floor(ms / 1000)), string.format('%d', (ms % 1000) * 1000)}
end)()"""


class Clock:
    """The store's time, in ms. It stands still until it is moved; the expiries of Redis servers move with it.

    A key that has some time left keeps 30 real seconds, so that a test can look at its last ms on any machine.
    """

    def __init__(self, client: Client | None = None) -> None:
        self.now = START
        self._client = client
        self._lefts: list[bytes] = []
        self._ticks = 0
        self.move(0)

    def __call__(self) -> int:
        return self.now

    def tick(self) -> None:
        """Move on by a ms; what expires follows with the next move, for that takes long where many keys are."""
        self.now += 1
        self._ticks += 1
        if self._client is not None:
            self._client.set("test:clock", self.now)

    def move(self, ms: int) -> None:
        self.now += ms
        if self._client is None:
            return
        command: tuple[Any, ...] = ("EVAL", _MOVE, 0, ms + self._ticks, *self._lefts)
        self._ticks = 0
        if isinstance(self._client, EveryNode):
            self._lefts = [part for told in self._client.everywhere(*command) for part in told]
        else:
            self._lefts = self._client.execute_command(*command)
        self._client.set("test:clock", self.now)

    def monotonic(self) -> float:
        return self.now / 1000


class WrittenClock(Clock):
    """Where a script cannot read a key of another slot, or may not: the time is in its text, which changes with it."""

    def __init__(self, client: Client, stores: Sequence[Store]) -> None:
        self._stores = stores
        super().__init__(client)

    def tick(self) -> None:
        super().tick()
        self._write()

    def move(self, ms: int) -> None:
        super().move(ms)
        self._write()

    def _write(self) -> None:
        for store in self._stores:
            store._calls._scripts = Scripts(self.lua)  # type: ignore[attr-defined]

    @property
    def lua(self) -> str:
        return f"{{'{self.now // 1000}', '{self.now % 1000 * 1000}'}}"


class Kind:
    """One kind of store with its clock; `make` gives a store of it. Several share what is stored, if the kind can.

    `client` asks the servers behind the back of the store; by default it is made from the URL. `fallback`: with memory
    while Redis is away; without a URL it is away all the time.
    """

    def __init__(
        self, name: str, url: str | None = None, client: Client | None = None, *, fallback: bool = False
    ) -> None:
        self.name = name
        self.url = url
        self.client = client
        self.fallback = fallback
        if url is not None and client is None:
            self.client = redis.Redis.from_url(url, socket_timeout=5)
        self._made: list[Store] = []
        if self.client is not None:
            self.client.flushall()
        if client is not None:
            self.clock: Clock = WrittenClock(client, self._made)
        else:
            self.clock = Clock(self.client)

    @property
    def is_redis(self) -> bool:
        return self.client is not None

    def make(self, limits: Limits | None = None, **options: Any) -> Store:
        store: Store
        if self.url is None and not self.fallback:
            store = MemoryStore(limits or Limits(), clock=self.clock)
        else:
            clock = self.clock.lua if isinstance(self.clock, WrittenClock) else LUA_CLOCK
            options = {"clock": clock, "monotonic": self.clock.monotonic, **options}
            store = redis = RedisStore(connect(self.url or NOWHERE, {}), limits or Limits(), **options)
            if self.fallback:
                store = FallbackStore(redis, monotonic=self.clock.monotonic, wall=self.clock)
        self._made.append(store)
        return store

    def keys_without_expiry(self) -> list[str]:
        """The keys of the store that would stay for ever."""
        if self.client is None:
            return []
        keys = self.client.keys("sessionstatus:*")
        return sorted(
            key.decode()
            for key in keys
            if self.client.pttl(key) == -1 and not re.search(rb":durations:|:counters:{all}$", key)
        )

    def close(self) -> None:
        for store in self._made:
            store.close()
        if self.client is not None:
            self.client.close()


def a_session(
    session_id: str = "s1", conversation_id: str = "c1", namespace_id: str | None = "u1", **fields: Any
) -> Any:
    fields.setdefault("language", "nl")
    return SessionDraft(session_id, conversation_id, namespace_id, **fields)


def a_task(task_id: str = "t1", **fields: Any) -> TaskDraft:
    fields.setdefault("token", uuid4().hex)
    return TaskDraft(task_id, **fields)


class Job:
    """One attempt of a task, driven by hand."""

    def __init__(self, store: Store, begun: Begun, session: SessionDraft, task: TaskDraft) -> None:
        self.store = store
        self.begun = begun
        self.session = session
        self.draft = task
        self.ref = TaskRef(session.conversation_id, session.session_id, task.task_id)
        self.epoch = begun.epoch
        self.tail = begun.tail

    @property
    def task(self) -> Task:
        found = self.store.task(self.ref.session_id, self.ref.task_id)
        assert found is not None
        return found

    def append(
        self,
        events: Iterable[str | tuple[str, str]] = (),
        *,
        base: int | None = None,
        floor: int = 0,
        change: Change | None = None,
        end: End | None = None,
    ) -> Answer:
        """Append events (a text is a token's) after `base`, by default behind what was appended here before."""
        pairs = [event if isinstance(event, tuple) else ("token", json.dumps({"text": event})) for event in events]
        at = self.tail if base is None else base
        answer = self.store.append([Append(self.ref, self.draft.attempt, self.epoch, at, floor, pairs, change, end)])[0]
        assert isinstance(answer, Answer), answer
        self.tail = max(self.tail, at + len(pairs))
        return answer

    def end(
        self, state: str = "completed", result: str | None = None, base: int | None = None, **fields: Any
    ) -> Answer:
        return self.append([("end", json.dumps({"state": state}))], base=base, end=End(state, result=result, **fields))

    def beat(self) -> Answer:
        answer = self.store.beat([Beat(self.ref, self.draft.attempt, self.epoch)])[0]
        assert isinstance(answer, Answer), answer
        return answer

    def cancel(self) -> Task | None:
        return self.store.cancel(self.ref)

    def page(self, after: Cursor = ORIGIN, limit: int = 500) -> Page | None:
        return self.store.events(self.ref, after, limit)

    def texts(self, after: Cursor = ORIGIN, limit: int = 500) -> list[str]:
        """The texts of its tokens after a cursor; other events by their type."""
        page = self.page(after, limit)
        assert page is not None
        return [event.data["text"] if event.type == "token" else event.type for event in page.events]  # type: ignore[index,call-overload]

    def numbers(self, after: Cursor = ORIGIN) -> list[int]:
        page = self.page(after)
        assert page is not None
        return [event.cursor.number for event in page.events]

    def retry(self, token: str = "second") -> Job:
        return begin(self.store, self.session, a_task(self.ref.task_id, token=token, attempt=self.draft.attempt + 1))


def begin(
    store: Store,
    session: SessionDraft | None = None,
    task: TaskDraft | None = None,
    if_running: str = "allow",
    own: bool = True,
) -> Job:
    session, task = session or a_session(), task or a_task()
    return Job(store, store.begin(session, task, if_running, own), session, task)


def heal(job: Job, **session_fields: Any) -> Job:
    """Re-create a job's session and task as an outbox does after the store lost them."""
    session = a_session(
        job.ref.session_id,
        job.ref.conversation_id,
        **{"namespace_id": job.session.namespace_id, "created_at": job.begun.session_created_at, **session_fields},
    )
    task = a_task(
        job.ref.task_id,
        token=job.draft.token,
        attempt=job.draft.attempt,
        epoch=job.epoch,
        created_at=job.begun.task_created_at,
    )
    return begin(job.store, session, task, own=False)


def whole_log(store: Store, ref: TaskRef) -> Page | None:
    """All that is kept of a task's events, page by page, with the task as it stood in the end."""
    events: list[Event] = []
    while True:
        page = store.events(ref, events[-1].cursor if events else ORIGIN, STEP)
        if page is None:
            return None
        events += page.events
        if len(page.events) < STEP:
            return page.with_events(events)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Make the calls at the same time, each in a thread; returns what each gave, or raised."""
    gate = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)

    def run(index: int, call: Callable[[], Any]) -> None:
        gate.wait(10)
        try:
            results[index] = call()
        except Exception as error:  # noqa: BLE001 - handed to the test
            results[index] = error

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return results


def once_available(call: Callable[[], T], wait: float = 5.0) -> T:
    """What a call gives once the store can be asked, within `wait` s."""
    until = time.monotonic() + wait
    while True:
        try:
            return call()
        except StoreUnavailable:
            assert time.monotonic() < until, f"still unavailable after {wait:g} s"
            time.sleep(0.005)


def says_nothing(store: Store, call: Callable[[], object]) -> bool:
    """Whether a store says that there is nothing. One that goes on without its Redis cannot know that: it says so."""
    try:
        found = call()
    except StoreUnavailable:
        assert store.degraded
        return True
    return found is None and not store.degraded


def logged(records: Sequence[logging.LogRecord]) -> str:
    return "\n".join(record.getMessage() for record in records)
