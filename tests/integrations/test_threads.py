"""Background functions in threads and executors of the host's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import ContextVar
from multiprocessing import get_context
from typing import Any

import pytest
from flask import current_app, has_request_context
from integrations.conftest import Host

from flask_sessionstatus import AlreadyStarted, Cancelled, Run, TaskRunning, TaskState, current_run
from flask_sessionstatus.integrations import threads

language: ContextVar[str] = ContextVar("language", default="none")


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class Busy:
    """Keeps the only thread of an executor until it is let go."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._free, entered = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            self._free.wait(20)

        self._future = executor.submit(hold)
        assert entered.wait(10)

    def __enter__(self) -> Busy:
        return self

    def __exit__(self, *_: object) -> None:
        self._free.set()
        self._future.result(10)


def emit(run: Run, text: str) -> str:
    assert current_run.task_id == run.task_id
    run.emit("token", {"text": text})
    run.result(text)
    return text.upper()


def test_work_of_an_executor_is_tracked_from_submit_to_end(host: Host, executor: ThreadPoolExecutor) -> None:
    function = host.extension.background(type="report", namespace_id="u1")(emit)
    with host.app.app_context(), Busy(executor):
        task, future = threads.submit(executor, function, "c1", text="a")
        assert (task.state, task.type) == (TaskState.PENDING, "report")
        assert host.task(task).state is TaskState.PENDING
    assert future.result(10) == "A"
    assert (host.task(task).state, host.types(task)) == (TaskState.COMPLETED, ["token", "end"])


def test_a_thread_is_tracked_from_its_start_to_its_end(host: Host) -> None:
    function = host.extension.background(namespace_id="u1")(emit)
    with host.app.app_context():
        task, thread = threads.start(function, "c1", "a")
    thread.join(10)
    assert (host.task(task).state, host.types(task)) == (TaskState.COMPLETED, ["token", "end"])


def test_an_exception_is_recorded_and_the_futures(host: Host, executor: ThreadPoolExecutor) -> None:
    @host.extension.background(namespace_id="u1")
    def fail(run: Run) -> None:
        raise ValueError("no")

    with host.app.app_context():
        task, future = threads.submit(executor, fail, "c1")
    assert isinstance(future.exception(10), ValueError)
    assert (host.task(task).state, host.task(task).error_type) == (TaskState.ERROR, "ValueError")


def test_a_future_that_is_cancelled_before_it_began_is_cancelled(host: Host, executor: ThreadPoolExecutor) -> None:
    function = host.extension.background(namespace_id="u1")(emit)
    with host.app.app_context(), Busy(executor):
        task, future = threads.submit(executor, function, "c1", "a")
        assert future.cancel()
        assert host.state.engine.outbox.wait_while_reachable(host.state.engine.outbox._entries[task.task_id], 5)
        assert (host.task(task).state, host.types(task)) == (TaskState.CANCELLED, ["end"])
    with pytest.raises(CancelledError):
        future.result(10)
    assert host.types(task) == ["end"]


def test_a_future_that_runs_cannot_be_cancelled_and_its_task_goes_on(host: Host, executor: ThreadPoolExecutor) -> None:
    entered, go_on = threading.Event(), threading.Event()

    @host.extension.background(namespace_id="u1")
    def wait(run: Run) -> None:
        entered.set()
        go_on.wait(10)

    with host.app.app_context():
        task, future = threads.submit(executor, wait, "c1")
    assert entered.wait(10)
    assert not future.cancel()
    assert host.task(task).state is TaskState.RUNNING
    go_on.set()
    future.result(10)
    assert host.task(task).state is TaskState.COMPLETED


def test_a_task_that_is_stopped_before_it_began_cancels_its_future(host: Host, executor: ThreadPoolExecutor) -> None:
    function = host.extension.background(namespace_id="u1")(emit)
    with host.app.app_context(), Busy(executor):
        task, future = threads.submit(executor, function, "c1", "a")
        host.stop(task)
        with pytest.raises(CancelledError):
            future.result(10)
    assert (host.task(task).state, host.types(task)) == (TaskState.CANCELLED, ["end"])


def test_a_task_that_is_stopped_while_it_runs_is_cancelled(host: Host, executor: ThreadPoolExecutor) -> None:
    @host.extension.background(namespace_id="u1")
    def wait(run: Run) -> str:
        run.wait_cancelled(10)
        run.check_cancelled()
        return "not reached"

    with host.app.app_context():
        task, future = threads.submit(executor, wait, "c1")
        while host.task(task).state is TaskState.PENDING:
            threading.Event().wait(0.005)
        host.stop(task)
    assert future.result(10) is None
    assert host.task(task).state is TaskState.CANCELLED


def test_what_an_executor_refuses_does_not_stay_pending(host: Host, executor: ThreadPoolExecutor) -> None:
    executor.shutdown()
    function = host.extension.background(namespace_id="u1")(emit).with_options(session_id="s1")
    with host.app.app_context():
        with pytest.raises(RuntimeError, match="shutdown"):
            threads.submit(executor, function, "c1", "a")
        session = host.extension.sessions.get("s1")
        assert session is not None
        assert session.latest_task is not None
        until_ended(host, session.latest_task)
        assert host.task(session.latest_task).error_type == "RuntimeError"


def test_what_an_executor_drops_when_it_shuts_down_is_cancelled(host: Host) -> None:
    executor = ThreadPoolExecutor(1)
    function = host.extension.background(namespace_id="u1")(emit)
    with host.app.app_context(), Busy(executor):
        task, _ = threads.submit(executor, function, "c1", "a")
        executor.shutdown(wait=False, cancel_futures=True)
    until_ended(host, task)
    assert host.task(task).state is TaskState.CANCELLED


def test_what_an_executor_of_processes_cannot_take_is_an_error_and_not_pending_for_ever(host: Host) -> None:
    function = host.extension.background(namespace_id="u1")(emit)
    with host.app.app_context(), ProcessPoolExecutor(1, get_context("spawn")) as executor:
        task, future = threads.submit(executor, function, "c1", "a")
        assert future.exception(20) is not None
    until_ended(host, task)
    assert host.task(task).state is TaskState.ERROR


def until_ended(host: Host, task: Any) -> None:
    for _ in range(1000):
        if host.task(task).state.terminal:
            return
        threading.Event().wait(0.01)
    pytest.fail("The task does not end.")


def test_the_hosts_context_goes_along_and_its_request_does_not(host: Host, executor: ThreadPoolExecutor) -> None:
    seen: list[Any] = []

    @host.extension.background()
    def look(run: Run) -> None:
        seen.append((language.get(), has_request_context(), current_app.name, current_run.task_id))

    with host.app.test_request_context(), host.extension.run("c0"):
        language.set("nl")
        tasks = [threads.submit(executor, look, "c1")[0], look.start("c2")]
        task, thread = threads.start(look, "c3")
        thread.join(10)
    for each in tasks:
        until_ended(host, each)
    language.set("none")
    assert sorted(seen) == sorted(("nl", False, "host", each.task_id) for each in (*tasks, task))
    assert {host.task(each).namespace_id for each in tasks} == {"u1"}


def test_helpers_of_a_work_are_carried_to_other_threads(host: Host) -> None:
    def help_out(number: int) -> str:
        current_run.emit("token", {"number": number})
        return f"{current_run.task_id} {language.get()}"

    with ThreadPoolExecutor(4) as executor, host.app.app_context():
        with host.extension.run("c1", namespace_id="u1") as run:
            language.set("nl")
            found = list(executor.map(threads.carry(help_out), range(50)))
        with pytest.raises(RuntimeError):
            executor.submit(help_out, 1).result(10)
    language.set("none")
    assert found == [f"{run.task_id} nl"] * 50
    assert host.types(run.task).count("token") == 50


def test_options_hold_for_executors_too(host: Host, executor: ThreadPoolExecutor) -> None:
    function = host.extension.background(namespace_id="u1")(emit)
    once = function.with_options(idempotency_key="k", session_id="s1")
    with host.app.app_context(), Busy(executor):
        task, _ = threads.submit(executor, once, "c1", "a")
        assert task.session_id == "s1"
        with pytest.raises(AlreadyStarted) as started:
            threads.submit(executor, once, "c1", "a")
        assert started.value.task.task_id == task.task_id
        with pytest.raises(TaskRunning):
            threads.start(function.with_options(if_running="reject"), "c1", "a")


def test_a_job_is_done_once(host: Host) -> None:
    function = host.extension.background(namespace_id="u1")(emit)
    with host.app.app_context():
        job, abandoned = function.job("c1", "a"), function.job("c2", "a")
    assert (job(), job()) == ("A", None)
    job.abandon()
    abandoned.abandon()
    assert abandoned() is None
    until_ended(host, abandoned.run)
    assert host.task(job.run).state is TaskState.COMPLETED
    assert host.task(abandoned.run).state is TaskState.CANCELLED


def test_an_async_function_has_an_event_loop_of_its_own_in_a_thread(host: Host, executor: ThreadPoolExecutor) -> None:
    @host.extension.background(namespace_id="u1")
    async def answer(run: Run, text: str) -> str:
        await asyncio.sleep(0)
        run.emit("token", {"text": current_run.task_id})
        return text

    @host.extension.background(namespace_id="u1")
    async def stop(run: Run) -> None:
        raise Cancelled("enough")

    with host.app.app_context():
        task, future = threads.submit(executor, answer, "c1", "a")  # type: ignore[var-annotated]
        started, stopped = answer.start("c2", "b"), stop.start("c3")
    assert future.result(10) == "a"
    for each in (task, started, stopped):
        until_ended(host, each)
    assert [host.task(each).state for each in (task, started, stopped)] == ["completed", "completed", "cancelled"]
