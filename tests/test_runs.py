from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Clock, a_session, a_task

from flask_sessionstatus import Cancelled, InvalidValue, SessionStatusError, TaskState, current_run
from flask_sessionstatus.engine import Engine
from flask_sessionstatus.models import ORIGIN
from flask_sessionstatus.runs import Run
from flask_sessionstatus.stores.base import Limits, TaskRef
from flask_sessionstatus.stores.memory import MemoryStore

REF = TaskRef("c1", "s1", "t1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Iterator[Engine]:
    engine = Engine(MemoryStore(Limits(), clock=clock), max_event_bytes=100, max_result_bytes=100)
    yield engine
    engine.shutdown(5)


def a_run(engine: Engine, task_id: str = "t1", if_running: Any = "allow", **fields: Any) -> Run:
    return Run(engine, a_session(), a_task(task_id, **fields), if_running=if_running)


def task(engine: Engine, task_id: str = "t1") -> Any:
    return engine.store.task("s1", task_id)


def types(engine: Engine, task_id: str = "t1") -> list[str]:
    page = engine.store.events(TaskRef("c1", "s1", task_id), ORIGIN, 100)
    assert page is not None
    return [event.type for event in page.events]


def test_leaving_the_block_completes_the_task(engine: Engine) -> None:
    with a_run(engine) as run:
        cursor = run.emit("token", {"text": "a"})
        run.result({"answer": 42})
    assert (cursor.epoch, cursor.number) == (run.task.epoch, 1)
    assert task(engine).state is TaskState.COMPLETED
    assert engine.store.result("s1", "t1") == '{"answer":42}'
    assert types(engine) == ["token", "end"]


def test_an_exception_is_recorded_and_raised_on(engine: Engine) -> None:
    with pytest.raises(ValueError, match="no such"), a_run(engine):
        raise ValueError("no such\nthing \ud800" + "x" * 1000)
    found = task(engine)
    assert (found.state, found.error_type) == (TaskState.ERROR, "ValueError")
    assert found.error_message.startswith("no such thing ?")
    assert len(found.error_message) <= 500


def test_a_result_of_a_run_that_failed_is_not_kept(engine: Engine) -> None:
    def work() -> None:
        with a_run(engine) as run:
            assert not run.has_result
            run.result(1)
            assert run.has_result
            raise LookupError

    with pytest.raises(LookupError):
        work()
    assert engine.store.result("s1", "t1") is None
    assert not task(engine).result_available


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_is_an_error_of_its_name(engine: Engine, error: type[BaseException]) -> None:
    with pytest.raises(error), a_run(engine):
        raise error
    assert (task(engine).state, task(engine).error_type) == (TaskState.ERROR, error.__name__)


def test_a_generator_that_is_closed_is_an_error_of_that_name(engine: Engine) -> None:
    def generate() -> Iterator[str]:
        with a_run(engine) as run:
            run.emit("token")
            yield "a"
            yield "b"

    generator = generate()
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    assert (task(engine).state, task(engine).error_type) == (TaskState.ERROR, "GeneratorExit")


def test_cancelled_is_swallowed(engine: Engine) -> None:
    with a_run(engine) as run:
        engine.store.cancel(REF)
        engine.beats.beat()
        assert run.cancelled
        run.check_cancelled()
        pytest.fail("not reached")
    assert task(engine).state is TaskState.CANCELLED
    assert types(engine) == ["end"]


def test_a_run_that_completes_in_spite_of_a_cancel_request_has_completed(engine: Engine) -> None:
    with a_run(engine) as run:
        engine.store.cancel(REF)
        assert run.wait_cancelled(5)
    assert task(engine).state is TaskState.COMPLETED


def test_work_that_never_asks_ends_at_the_first_event_after_a_stop(engine: Engine) -> None:
    with a_run(engine) as run:
        run.emit("token")
        engine.store.cancel(REF)
        assert run.wait_cancelled(5)
        run.emit("token")
        raise AssertionError("It goes on.")
    found = task(engine)
    assert (found.state, found.tail) == (TaskState.CANCELLED, 2)


def test_emit_raises_once_the_session_is_deleted(engine: Engine) -> None:
    with a_run(engine) as run:
        engine.store.delete_session("s1")
        assert run.wait_cancelled(5)
        with pytest.raises(Cancelled):
            run.emit("token")
    assert engine.store.session("s1") is None


def test_callbacks_hear_of_a_cancel_and_a_failing_one_stops_nothing(engine: Engine) -> None:
    heard = threading.Event()

    def fail() -> None:
        raise RuntimeError("callback")

    with a_run(engine) as run:
        run.on_cancel(fail)
        run.on_cancel(heard.set)
        engine.store.cancel(REF)
        assert heard.wait(5)
        late = threading.Event()
        run.on_cancel(late.set)
        assert late.is_set()


def test_a_run_works_in_any_thread(engine: Engine) -> None:
    with a_run(engine) as run:
        threads = [threading.Thread(target=run.emit, args=("token", n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert types(engine) == ["token"] * 8 + ["end"]


def test_the_current_run_is_the_one_of_the_block(engine: Engine) -> None:
    with pytest.raises(RuntimeError):
        current_run.emit("token")
    with a_run(engine, "t1"):
        with a_run(engine, "t2"):
            assert current_run.task_id == "t2"
        assert current_run.task_id == "t1"
    with pytest.raises(RuntimeError):
        current_run.emit("token")


def test_a_run_of_the_parent_raises_in_a_forked_child(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_run(engine) as run:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with pytest.raises(SessionStatusError, match="fork"):
                run.emit("token")
        run.emit("token")


def test_a_run_that_has_not_begun_says_so(engine: Engine) -> None:
    with pytest.raises(SessionStatusError, match="with block"):
        a_run(engine).emit("token")


@pytest.mark.parametrize("data", ["x" * 99, "é" * 50, {"a": float("nan")}, object(), "\ud800"])
def test_an_event_that_is_too_large_or_no_json_is_refused(engine: Engine, data: Any) -> None:
    with a_run(engine) as run:
        with pytest.raises(InvalidValue):
            run.emit("token", data)
        run.emit("token", "x" * 98)
    assert types(engine) == ["token", "end"]


def test_a_reserved_type_is_refused(engine: Engine) -> None:
    with a_run(engine) as run, pytest.raises(InvalidValue):
        run.emit("end", {})


def test_a_result_that_is_too_large_is_refused(engine: Engine) -> None:
    with a_run(engine) as run, pytest.raises(InvalidValue):
        run.result("x" * 99)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 1e15, "1"])
def test_progress_is_told_in_numbers(engine: Engine, value: Any) -> None:
    with a_run(engine) as run, pytest.raises(InvalidValue):
        run.progress(value)


def test_progress_with_a_total_gives_an_estimate(engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.outbox, "_monotonic", lambda: 1.0)  # on the way to the store no time passes
    times = iter([0.0])
    now = [0.0]
    run = Run(engine, a_session(), a_task(), monotonic=lambda: next(times, now[0]))
    with run:
        now[0] = 1.0
        run.progress(1, 4, "reading")
        assert run.flush(5)
        found = task(engine)
        assert (found.progress.current, found.progress.total, found.progress.message) == (1, 4, "reading")
        assert (found.estimated_completion, found.estimate_basis) == (clock.now + 3000, "progress")


def test_a_pending_run_starts_with_its_block(engine: Engine) -> None:
    run = a_run(engine, pending=True)
    run.begin()
    assert task(engine).state is TaskState.PENDING
    with run:
        assert run.flush(5)
        assert task(engine).state is TaskState.RUNNING
    assert task(engine).state is TaskState.COMPLETED


def test_replace_waits_until_the_others_have_stopped(engine: Engine) -> None:
    entered, order = threading.Event(), []

    def first() -> None:
        with a_run(engine, "t1") as run:
            entered.set()
            assert run.wait_cancelled(5)
            order.append("first stopped")
            run.check_cancelled()

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(5)
    with a_run(engine, "t2", "replace"):
        order.append("second started")
    thread.join(5)
    assert order == ["first stopped", "second started"]
    assert task(engine, "t1").state is TaskState.CANCELLED


def test_what_replaces_another_is_pending_until_that_has_stopped(engine: Engine, clock: Clock) -> None:
    entered, seen = threading.Event(), []

    def first() -> None:
        with a_run(engine, "t1") as run:
            entered.set()
            assert run.wait_cancelled(5)
            seen.append(task(engine, "t2").state)
            clock.move(1000)
            run.check_cancelled()

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(5)
    with a_run(engine, "t2", "replace"):
        seen.append(task(engine, "t2").state)
    thread.join(5)
    assert seen == [TaskState.PENDING, TaskState.RUNNING]
    assert task(engine, "t2").started_at == task(engine, "t1").finished_at


def test_a_completed_runs_duration_is_remembered(engine: Engine) -> None:
    for n in range(3):
        with a_run(engine, f"t{n}", type="report"):
            pass
    with a_run(engine, "last", type="report"):
        assert len(engine.store._durations["report"]) == 3  # type: ignore[attr-defined]


def test_a_shutdown_ends_what_still_runs(clock: Clock) -> None:
    engine = Engine(MemoryStore(Limits(), clock=clock))
    run = a_run(engine)
    run.begin()
    run.start()
    run.emit("token")
    assert engine.shutdown(5)
    found = task(engine)
    assert (found.state, found.error_type) == (TaskState.ERROR, "Shutdown")
    assert types(engine) == ["token", "end"]


# In asyncio


def test_async_with_completes_and_fails_like_with(engine: Engine) -> None:
    async def work() -> None:
        async with a_run(engine, "t1") as run:
            run.emit("token")
        with pytest.raises(ValueError, match="x"):
            async with a_run(engine, "t2"):
                raise ValueError("x")

    asyncio.run(work())
    assert task(engine, "t1").state is TaskState.COMPLETED
    assert task(engine, "t2").state is TaskState.ERROR


def test_a_cancelled_coroutine_is_cancelled(engine: Engine) -> None:
    async def work(emitted: asyncio.Event) -> None:
        async with a_run(engine) as run:
            run.emit("token")
            emitted.set()
            await asyncio.sleep(60)

    async def main() -> None:
        emitted = asyncio.Event()
        worker = asyncio.create_task(work(emitted))
        await asyncio.wait_for(emitted.wait(), 10)
        engine.store.cancel(REF)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(worker, 10)

    asyncio.run(main())
    assert task(engine).state is TaskState.CANCELLED
