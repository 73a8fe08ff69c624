"""A store with a fallback, before whose Redis stands a proxy that takes it away."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import redis
from harness import LUA_CLOCK, Clock, Job, a_session, a_task, begin, heal, whole_log
from servers import Proxy

from flask_sessionstatus.models import TaskState, Turn
from flask_sessionstatus.stores.base import Change, End, Limits, Store, Tally, TaskRef, Verdict
from flask_sessionstatus.stores.fallback import FallbackStore
from flask_sessionstatus.stores.redis import RedisStore, connect

SHORT = {"socket_timeout": 0.3, "socket_connect_timeout": 0.3}


class Rig:
    """A Redis, a proxy before it, stores that reach it directly or through the proxy, and the clock of all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url, socket_timeout=5)
        self.client.flushall()
        port = urlsplit(url).port
        assert port is not None
        self.proxy = Proxy(port)
        self.clock = Clock(self.client)
        self._made: list[Any] = []
        self.plain = self.direct()

    def direct(self, limits: Limits | None = None) -> RedisStore:
        """A store that always reaches Redis, as another process has it."""
        return self._redis(self.url, limits)

    def fallback(self, limits: Limits | None = None, ahead: int = 0) -> FallbackStore:
        """A store that goes on from memory while the proxy is cut; the machine's clock is so far `ahead` (ms)."""
        store = FallbackStore(
            self.through_proxy(limits), monotonic=self.clock.monotonic, wall=lambda: self.clock() + ahead
        )
        self._made.append(store)
        return store

    def through_proxy(self, limits: Limits | None = None) -> RedisStore:
        """What a fallback has behind it."""
        return self._redis(self.proxy.url, limits, insists=False)

    def _redis(self, url: str, limits: Limits | None, insists: bool = True) -> RedisStore:
        store = RedisStore(
            connect(url, SHORT), limits or Limits(), clock=LUA_CLOCK, monotonic=self.clock.monotonic, insists=insists
        )
        self._made.append(store)
        return store

    @contextmanager
    def outage(self, *stores: FallbackStore) -> Iterator[None]:
        """Redis is away; at the end all is handed over."""
        self.proxy.cut()
        yield
        self.proxy.mend()
        for store in stores:
            assert store.hand_over(10)
            assert not store.degraded

    def close(self) -> None:
        for store in self._made:
            store.close()
        self.proxy.close()
        self.client.close()


def turn(name: str, **fields: Any) -> Turn:
    return Turn("user", name, turn_id=f"id of {name}", **fields)


REFS = [
    TaskRef("c1", "s1", "t1"),
    TaskRef("c1", "s1", "t2"),
    TaskRef("c1", "s1", "t3"),
    TaskRef("c2", "s2", "t4"),
    TaskRef("c2", "s2", "t5"),
    TaskRef("c3", "s3", "t6"),
    TaskRef("c4", "s4", "t7"),
]
SESSIONS = ["s1", "s2", "s3", "s4", "s5", "s6"]


def before(plain: Store, store: Store) -> Job:
    """What is there when Redis goes away; `plain` is another process's store. Returns a job that runs on here."""
    job = begin(store, a_session("s1", "c1", metadata={"a": 1, "b": 2}), a_task("t1", token="k1"))
    job.append(["a", "b"])
    store.add_turns("s1", [turn("first", slots={"x": 1})], {"slot:x": "1"})
    store.tally([Tally("s1", {"accesses": 1, "count:n": 2}, "w", 1)])
    store.create_session(a_session("s3", "c3"))
    foreign = begin(plain, a_session("s4", "c4"), a_task("t7", token="k7"))
    foreign.append(["there"])
    store.create_session(a_session("s5", "c5"))
    for session_id in ("s1", "s3", "s5"):
        assert store.session(session_id) is not None
    for conversation_id in ("c1", "c3", "c4"):
        store.snapshot(conversation_id)
    return job


def meanwhile(clock: Clock, store: Store, job: Job) -> None:
    """One of each thing that can be written."""
    # A job that runs on, heals, tells its progress and ends.
    assert job.append(["c"]).verdict is Verdict.MISSING
    healed = heal(job, metadata={"a": 1, "b": 2})
    healed.append(["a", "b", "c"], base=0, change=Change(current=3, total=9, message="on", remaining=5000))
    clock.move(10)
    healed.append([], change=Change(current=9))
    healed.end(result='{"n": 9}')
    clock.move(10)
    # Turns, metadata, counts, a life that is prolonged.
    store.add_turns("s1", [turn("second"), turn("third", results={"r": [1]})], {"slot:y": "2", "template": "tpl"})
    store.update_session("s1", {"meta:a": None, "meta:c": "3", "language": "de"})
    store.tally([Tally("s1", {"accesses": 2, "count:n": 1}, "w", 2)])
    store.tally([Tally("s1", {"count:n": 5}, "w", 3)])
    store.touch(["s1"])
    # A task that fails with a traceback, is tried again, and runs on.
    failing = begin(store, a_session("s1", "c1"), a_task("t2", token="k2"))
    failing.append(["x"])
    failing.end("error", error_type="ValueError", error_message="no", traceback="Traceback …")
    clock.move(10)
    again = failing.retry(token="k2b")
    again.append(["y", "z"])
    # One with a key that is asked to stop; and one that was stopped before it began.
    keyed = begin(store, a_session("s1", "c1"), a_task("t3", token="k3", idempotency_key="once"))
    keyed.append(["w"])
    keyed.cancel()
    # A session that is new, with a task that waits in a queue, and one that a worker gives back to it.
    begin(store, a_session("s2", "c2", metadata={"new": True}, key="digest"), a_task("t4", token="k4", pending=True))
    store.cancel(TaskRef("c2", "s2", "t4"))
    queued = begin(store, a_session("s2", "c2"), a_task("t5", token="k5", pending=True, leased=False))
    claimed = store.claim(queued.ref, "worker")
    assert claimed is not None
    worker = Job(store, claimed, queued.session, replace(queued.draft, token="worker", attempt=claimed.attempt))
    worker.append(["half"])
    worker.append(end=End("pending", wait=60_000))
    for start in (0, 150):
        store.add_turns("s2", [turn(f"new {n}") for n in range(start, start + 150)], {})
    # A session of before that goes, and one that comes and goes.
    begin(store, a_session("s3", "c3"), a_task("t6", token="k6")).append(["q"])
    assert store.delete_session("s3")
    store.create_session(a_session("s6", "c6"))
    assert store.delete_session("s6")
    # A task that runs in another process is asked to stop.
    stopped = store.cancel(TaskRef("c4", "s4", "t7"))
    assert stopped is not None
    assert (stopped.state, stopped.cancel_requested_at) == (TaskState.RUNNING, clock.now)
    store.record_duration("report", 1234)
    clock.move(10)


def everything(store: Store) -> dict[str, Any]:
    """All that a store can be asked after `before` and `meanwhile`, in a form that can be compared."""
    found: dict[str, Any] = {"queued": store.find_task("t5")}
    for session_id in SESSIONS:
        session = store.session(session_id)
        found[f"session {session_id}"] = session
        found[f"turns {session_id}"] = store.turns(session_id, None, 1000)
        found[f"tasks {session_id}"] = store.tasks(session_id, 100)
    for ref in REFS:
        try:
            page = whole_log(store, ref)
        except Exception as error:  # noqa: BLE001 - compared
            found[f"events {ref.task_id}"] = type(error).__name__
            continue
        events = (
            None if page is None else [(str(each.cursor), each.type, json.loads(each.json)) for each in page.events]
        )
        found[f"events {ref.task_id}"] = events
        found[f"result {ref.task_id}"] = store.result(ref.session_id, ref.task_id)
        found[f"trace {ref.task_id}"] = store.traceback(ref.session_id, ref.task_id)
    return found


def as_it_was_written(found: Mapping[str, Any], now: int) -> None:
    """What `everything` finds after `before`, at `now`, and `meanwhile`."""

    session = found["session s1"]
    assert session.metadata == {"b": 2, "c": 3}
    assert (session.language, session.current_slots, session.current_template_id) == ("de", {"x": 1, "y": 2}, "tpl")
    assert (session.access_count, session.counters, session.message_count) == (3, {"n": 8}, 3)
    assert session.created_at == now
    turns = found["turns s1"]
    assert [(each.content, each.position, each.timestamp) for each in turns] == [
        ("first", 0, now),
        ("second", 1, now + 20),
        ("third", 2, now + 20),
    ]
    assert turns[2].results == {"r": [1]}

    tasks = {task.task_id: task for task in found["tasks s1"]}
    first = tasks["t1"]
    assert (first.state, first.attempt, first.created_at, first.started_at) == (TaskState.COMPLETED, 1, now, now)
    assert (first.finished_at, first.progress.current, first.progress.total) == (now + 10, 9, 9)
    assert [event[2].get("text", event[1]) for event in found["events t1"]] == ["a", "b", "c", "end"]
    assert found["result t1"] == '{"n": 9}'
    second = tasks["t2"]
    assert (second.state, second.attempt, second.started_at) == (TaskState.RUNNING, 2, now + 30)
    assert [event[1] for event in found["events t2"]] == ["token", "end", "attempt", "token", "token"]
    third = tasks["t3"]
    assert (third.state, third.cancel_requested_at) == (TaskState.RUNNING, now + 30)

    new = found["session s2"]
    assert (new.metadata, new.key, new.message_count, new.created_at) == ({"new": True}, "digest", 300, now + 30)
    assert [each.content for each in found["turns s2"]] == [f"new {n}" for n in range(300)]
    tasks = {task.task_id: task for task in found["tasks s2"]}
    assert (tasks["t4"].state, tasks["t4"].finished_at) == (TaskState.CANCELLED, now + 30)
    assert (tasks["t5"].state, tasks["t5"].attempt) == (TaskState.PENDING, 2)
    assert found["queued"] == tasks["t5"]

    assert (found["session s3"], found["session s6"]) == (None, None)
    assert found["events t6"] == "NotFound"
    assert found["tasks s4"][0].cancel_requested_at is not None
