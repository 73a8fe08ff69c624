"""What the suites share: a clock that is moved, stores that live by it, and a job that is driven by hand."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

import redis

from flask_sessionstatus.models import ORIGIN, Cursor, Task
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
from flask_sessionstatus.stores.memory import MemoryStore
from flask_sessionstatus.stores.redis import RedisStore
from flask_sessionstatus.stores.redis_calls import connect

START = 1_704_123_456_789
LEASE_MS = Limits().lease
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
for _, key in ipairs(redis.call('KEYS', '*')) do
  local left = redis.call('PTTL', key)
  if left >= 0 and left <= tonumber(ARGV[1]) then redis.call('DEL', key)
  elseif left >= 0 then redis.call('PEXPIRE', key, math.max(2000, left - tonumber(ARGV[1]))) end
end
redis.call('SET', 'test:clock', ARGV[2])
"""

LUA_CLOCK = """(function()
  local ms = tonumber(redis.call('GET', 'test:clock'))
  return {string.format('%d', math.floor(ms / 1000)), string.format('%d', (ms % 1000) * 1000)}
end)()"""


class Clock:
    """The store's time, in ms. It stands still until it is moved; a Redis server's expiries move with it.

    A key that has some time left keeps two real seconds, so that a test can look at its last ms.
    """

    def __init__(self, client: redis.Redis | None = None) -> None:
        self.now = START
        self._client = client
        self.move(0)

    def __call__(self) -> int:
        return self.now

    def move(self, ms: int) -> None:
        self.now += ms
        if self._client is not None:
            self._client.eval(_MOVE, 0, max(0, ms), self.now)

    def monotonic(self) -> float:
        return self.now / 1000


class Kind:
    """One kind of store with its clock; `make` gives a store of it. Several share what is stored, if the kind can."""

    def __init__(self, name: str, url: str | None = None) -> None:
        self.name = name
        self.url = url
        self.client = redis.Redis.from_url(url, socket_timeout=5) if url is not None else None
        if self.client is not None:
            self.client.flushall()
        self.clock = Clock(self.client)
        self._made: list[Store] = []

    @property
    def is_redis(self) -> bool:
        return self.client is not None

    def make(self, limits: Limits | None = None, **options: Any) -> Store:
        if self.url is None:
            store: Store = MemoryStore(limits or Limits(), clock=self.clock)
        else:
            store = RedisStore(
                connect(self.url, {}), limits or Limits(), clock=LUA_CLOCK, monotonic=self.clock.monotonic, **options
            )
        self._made.append(store)
        return store

    def keys_without_expiry(self) -> list[str]:
        """The keys of the store that would stay for ever."""
        if self.client is None:
            return []
        keys = self.client.keys("sessionstatus:*")
        return sorted(key.decode() for key in keys if self.client.pttl(key) == -1 and b":durations:" not in key)

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


def logged(records: Sequence[logging.LogRecord]) -> str:
    return "\n".join(record.getMessage() for record in records)
