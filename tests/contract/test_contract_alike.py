"""Memory and Redis side by side: whatever is done to a conversation of very many sessions, both say the same of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from harness import Job, Kind, a_session, a_task, begin

from flask_sessionstatus.errors import SessionStatusError
from flask_sessionstatus.stores import bounds
from flask_sessionstatus.stores.base import End, Limits, Store
from flask_sessionstatus.stores.memory import sessions as memory_sessions
from flask_sessionstatus.stores.memory import store as memory_store
from flask_sessionstatus.stores.redis import calls as redis_calls
from flask_sessionstatus.stores.redis import store as redis_store

LOWERED: Mapping[str, int] = {"RECENT_SESSIONS": 4, "RECENT_FIELDS": 14, "LIVE_TASKS": 5, "TASKS": 4}
LIMITS = Limits(session_ttl=100_000, lease=10_000, max_pending_age=40_000)
SESSIONS = [f"s{number}" for number in range(12)]
STEPS = 120
STEPS_OF_A_SESSION = {"delete": 2, "update": 2, "create": 1}
STEPS_OF_A_TASK = {"end": 5, "beat": 4, "claim": 3, "retry": 1, "cancel": 1, "token": 1}
KINDS_OF_STEPS = {"begin": 6, "queue": 2, "wait": 4, **STEPS_OF_A_SESSION, **STEPS_OF_A_TASK}
GONE = {"missing", "fenced"}
"""Of an attempt that is no more: which of the two depends on how long its record is kept."""


@pytest.fixture
def kinds(redis_kind: Kind, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Kind]]:
    """Both, with bounds so low that all of them are passed."""
    for name, value in LOWERED.items():
        for module in (bounds, memory_sessions, memory_store, redis_store):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    text = "".join(f"local {name} = {value}\n" for name, value in vars(bounds).items() if name.isupper())
    monkeypatch.setattr(redis_calls, "BOUNDS", text)
    memory = Kind("memory")
    yield [memory, redis_kind]
    memory.close()


class Course:
    """Random steps, each done to every store."""

    def __init__(self, kinds: list[Kind], seed: int) -> None:
        self.kinds = kinds
        self.stores = [kind.make(LIMITS) for kind in kinds]
        self.random = random.Random(seed)
        self.jobs: dict[str, list[Job]] = {}
        self.done: list[str] = []

    def both(self, step: str, call: Callable[[int, Store], Any]) -> list[Any]:
        """What each store gave, or raised."""

        def attempt(index: int) -> Any:
            try:
                return call(index, self.stores[index])
            except SessionStatusError as error:
                return type(error).__name__

        self.done.append(step)
        return [attempt(index) for index in range(len(self.stores))]

    def step(self, number: int) -> None:
        names, weights = zip(*KINDS_OF_STEPS.items())
        kind = self.random.choices(names, weights)[0]
        if kind == "wait":
            ms = self.random.choice([1, 100, 3000, 6000, 11_000, 30_000, 60_000])
            self.done.append(f"wait {ms}")
            for each in self.kinds:
                each.clock.move(ms)
        elif kind in ("begin", "queue"):
            self.begin(number, queued=kind == "queue")
        elif kind in STEPS_OF_A_SESSION:
            self.alike(self.both(*self.of_a_session(kind)))
        elif self.jobs:
            found = self.both(*self.of_a_task(kind, number))
            if set(found) != GONE:
                self.alike(found)

    def begin(self, number: int, queued: bool) -> None:
        session_id, task_id = self.random.choice(SESSIONS), f"t{number}"
        key = self.random.choice([None, None, None, "A", "B"])
        if_running = self.random.choice(["allow"] * 4 + ["reject", "replace"])
        task = a_task(task_id, idempotency_key=key, pending=queued, leased=not queued)
        found = self.both(
            f"begin {session_id} {task_id} {key} {if_running} {queued}",
            lambda _, store: begin(store, a_session(session_id), task, if_running),
        )
        self.alike([sorted(each.begun.stopping) if isinstance(each, Job) else each for each in found])
        if isinstance(found[0], Job):
            self.jobs[task_id] = found

    def of_a_session(self, kind: str) -> tuple[str, Callable[[int, Store], Any]]:
        session_id = self.random.choice(SESSIONS)
        calls: dict[str, Callable[[int, Store], Any]] = {
            "delete": lambda _, store: store.delete_session(session_id),
            "update": lambda _, store: store.update_session(session_id, {"meta:x": "1"}),
            "create": lambda _, store: store.create_session(a_session(session_id)),
        }
        return f"{kind} {session_id}", calls[kind]

    def of_a_task(self, kind: str, number: int) -> tuple[str, Callable[[int, Store], Any]]:
        task_id = self.random.choice(list(self.jobs)[-12:])
        jobs = self.jobs[task_id]
        state = self.random.choice(["completed", "error", "pending"])
        asked = self.stores[0].task(jobs[0].ref.session_id, task_id)
        if state == "pending" and asked is not None and asked.cancel_requested_at is not None:
            state = "error"  # It is cancelled instead; how long its session lives then is not part of the contract.

        def end(index: int, _: Store) -> Any:
            if state == "pending":
                return jobs[index].append(end=End("pending", wait=20_000)).verdict.value
            return jobs[index].end(state).verdict.value

        def claim(index: int, store: Store) -> Any:
            job = jobs[index]
            begun = store.claim(job.ref, f"worker {number}")
            if begun is None:
                return None
            job.epoch, job.tail = begun.epoch, begun.tail
            job.draft = replace(job.draft, attempt=begun.attempt)
            return begun.attempt, tuple(sorted(begun.stopping))

        def retry(index: int, _: Store) -> None:
            jobs[index] = jobs[index].retry(f"retry {number}")

        def cancel(index: int, _: Store) -> Any:
            task = jobs[index].cancel()
            return task and task.state

        calls: dict[str, Callable[[int, Store], Any]] = {
            "end": end,
            "claim": claim,
            "retry": retry,
            "cancel": cancel,
            "beat": lambda index, _: jobs[index].beat().verdict.value,
            "token": lambda index, _: jobs[index].append(["x"]).verdict.value,
        }
        return f"{kind} {task_id} {state}", calls[kind]

    def alike(self, found: list[Any]) -> None:
        assert found[0] == found[1], "\n".join(self.done)

    def look(self) -> None:
        for session_id in SESSIONS:
            self.alike([self.seen(index, session_id) for index in range(len(self.stores))])
        snapshots = [store.snapshot("c1") for store in self.stores]
        self.alike([sorted(each for each in one.tasks if one.is_live(one.tasks[each])) for one in snapshots])

    def seen(self, index: int, session_id: str) -> Any:
        session = self.stores[index].session(session_id)
        if session is None:
            return None
        task, left = session.latest_task, session.expires_at - self.kinds[index].clock.now
        tasks = [(each.task_id, each.state) for each in self.stores[index].tasks(session_id, 10) or ()]
        latest = task and (task.task_id, task.state, task.attempt)
        return session_id, session.status, left, session.pending_tasks_count, latest, session.last_activity, tasks


@pytest.mark.parametrize("seed", range(18, 34))
def test_memory_and_redis_say_the_same(kinds: list[Kind], seed: int) -> None:
    course = Course(kinds, seed)
    for number in range(STEPS):
        course.step(number)
        course.look()
        assert kinds[1].client is not None
        assert kinds[1].client.hlen("sessionstatus:{c1}") <= 40, "\n".join(course.done)
    assert kinds[1].keys_without_expiry() == []
