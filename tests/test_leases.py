"""The beat thread: whatever goes wrong in one beat, the next one comes, for every task of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from harness import LEASE_MS, START, Clock, a_session, a_task
from processes.client import wait_until

from flask_sessionstatus.errors import RecordUnreadable, StoreUnavailable
from flask_sessionstatus.leases import BATCH
from flask_sessionstatus.models import TaskState
from flask_sessionstatus.runs import Engine, Run
from flask_sessionstatus.stores.base import Answer, Beat, Begun, Limits, TaskRef
from flask_sessionstatus.stores.memory import MemoryStore

BEFORE = LEASE_MS - 1


class Troubled(MemoryStore):
    """A store whose beats fail as often, and as, it is told; and that cannot make some tasks again."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Limits(), clock=clock)
        self.troubles: list[BaseException] = []
        self.unmade: set[str] = set()

    def beat(self, beats: Sequence[Beat]) -> Sequence[Answer | Exception]:
        if self.troubles:
            raise self.troubles.pop()
        return super().beat(beats)

    def begin(self, session: Any, task: Any, if_running: str = "allow", own: bool = True) -> Begun:
        if task.task_id in self.unmade:
            raise RuntimeError("A defect.")
        return super().begin(session, task, if_running, own)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Troubled:
    return Troubled(clock)


@pytest.fixture
def engine(store: Troubled) -> Iterator[Engine]:
    engine = Engine(store, heartbeat=0.01)
    yield engine
    engine.shutdown(5)


def a_run(engine: Engine, task_id: str = "t1", session_id: str = "s1") -> Run:
    run = Run(engine, a_session(session_id, f"c{session_id[1:]}"), a_task(task_id))
    run.begin()
    run.start()
    return run


def renewed(store: MemoryStore, clock: Clock, *task_ids: str, session_ids: Sequence[str] = ()) -> Callable[[], bool]:
    """Whether every one of the tasks was renewed at the present time; by default those of s1."""

    def check() -> bool:
        sessions = session_ids or ["s1"] * len(task_ids)
        tasks = [store.task(session_id, task_id) for session_id, task_id in zip(sessions, task_ids, strict=True)]
        return all(task is not None and task.deadline == clock.now + LEASE_MS for task in tasks)

    return check


@pytest.mark.parametrize(
    "trouble",
    [StoreUnavailable("Away."), RecordUnreadable("Unreadable."), RuntimeError("A defect."), MemoryError(), OSError()],
    ids=lambda error: type(error).__name__,
)
def test_a_beat_that_fails_is_followed_by_the_next(
    engine: Engine, store: Troubled, clock: Clock, trouble: Exception
) -> None:
    a_run(engine)
    store.troubles += [trouble] * 5
    wait_until(lambda: not store.troubles, 5, "the failures")
    for _ in range(3):
        clock.move(BEFORE)
        wait_until(renewed(store, clock, "t1"), 5, "a renewed lease")


@pytest.mark.parametrize("leave", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_callback_that_would_end_its_thread_ends_neither_the_beats_nor_the_flusher(
    engine: Engine, store: Troubled, clock: Clock, leave: type[BaseException]
) -> None:
    def callback() -> None:
        raise leave

    other = a_run(engine, "other")
    for heard in ("by a beat", "by an append"):
        run = a_run(engine, heard)
        run.on_cancel(callback)
        store.cancel(TaskRef("c1", "s1", heard))
        if heard == "by an append":
            run.emit("token")
        assert run.wait_cancelled(5)
    other.emit("token")
    assert other.flush(5)
    clock.move(BEFORE)
    wait_until(renewed(store, clock, "other"), 5, "a renewed lease")


def test_a_task_that_cannot_be_made_again_keeps_no_other_from_its_beat(
    engine: Engine, store: Troubled, clock: Clock
) -> None:
    names = [f"t{n}" for n in range(2 * BATCH)]
    sessions = [f"s{n // 64}" for n in range(2 * BATCH)]
    for name, session in zip(names, sessions):
        a_run(engine, name, session)
    store.unmade.add("t0")
    with store._lock:
        del store._sessions.get("s0").tasks["t0"]  # type: ignore[union-attr]
    clock.move(BEFORE)
    wait_until(renewed(store, clock, *names[1:], session_ids=sessions[1:]), 5, "renewed leases")
    found = store.task("s0", "t1")
    assert found is not None
    assert (found.state, found.started_at) == (TaskState.RUNNING, START)
    store.unmade.clear()
