"""Background functions in the host's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from flask import current_app, has_request_context
from integrations.conftest import Host

from flask_sessionstatus import AlreadyStarted, Run, Task, TaskState, current_run
from flask_sessionstatus.integrations import asyncio as coroutines
from flask_sessionstatus.runs import see_through

language: ContextVar[str] = ContextVar("language", default="none")


async def until(host: Host, task: Task, *states: TaskState) -> None:
    for _ in range(2000):
        if host.task(task).state in states:
            return
        await asyncio.sleep(0.005)
    pytest.fail(f"The task is {host.task(task).state}.")


def test_a_coroutine_is_tracked_from_its_creation_to_its_end(host: Host) -> None:
    seen: list[Any] = []

    @host.extension.background(type="report")
    async def answer(run: Run, text: str) -> str:
        await asyncio.sleep(0)
        seen.append((language.get(), has_request_context(), current_app.name, current_run.task_id))
        run.emit("token", {"text": text})
        return text.upper()

    async def main() -> tuple[Task, str | None]:
        with host.app.test_request_context():
            language.set("nl")
            task, running = await coroutines.create_task(answer, "c1", text="a")
        assert isinstance(running, asyncio.Task)
        return task, await running

    task, result = asyncio.run(main())
    assert (task.state, task.type, result) == (TaskState.PENDING, "report", "A")
    assert seen == [("nl", False, "host", task.task_id)]
    assert (host.task(task).state, host.task(task).namespace_id) == (TaskState.COMPLETED, "u1")
    assert host.types(task) == ["token", "end"]


def forever(host: Host, entered: Callable[[], object] = lambda: None) -> Any:
    @host.extension.background(namespace_id="u1")
    async def wait(run: Run) -> None:
        entered()
        await asyncio.sleep(60)

    return wait


def test_a_coroutine_that_is_cancelled_is_recorded_as_cancelled_and_raises_on(host: Host) -> None:
    async def main() -> Task:
        with host.app.app_context():
            task, running = await coroutines.create_task(forever(host), "c1")
        await until(host, task, TaskState.RUNNING)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return task

    task = asyncio.run(main())
    assert (host.task(task).state, host.types(task)) == (TaskState.CANCELLED, ["end"])


def test_a_coroutine_that_is_cancelled_before_its_first_step_is_cancelled(host: Host) -> None:
    entered = threading.Event()

    async def main() -> Task:
        with host.app.app_context():
            task, running = await coroutines.create_task(forever(host, entered.set), "c1")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await until(host, task, TaskState.CANCELLED)
        return task

    task = asyncio.run(main())
    assert not entered.is_set()
    assert host.types(task) == ["end"]


def test_a_stop_cancels_the_coroutine(host: Host) -> None:
    async def main() -> Task:
        with host.app.app_context():
            task, running = await coroutines.create_task(forever(host), "c1")
        await until(host, task, TaskState.RUNNING)
        await asyncio.to_thread(host.stop, task)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(running, 10)
        return task

    assert host.task(asyncio.run(main())).state is TaskState.CANCELLED


def test_an_exception_is_recorded_and_raised_on(host: Host) -> None:
    @host.extension.background(namespace_id="u1")
    async def fail(run: Run) -> None:
        raise ValueError("no")

    async def main() -> Task:
        with host.app.app_context():
            task, running = await coroutines.create_task(fail, "c1")
        with pytest.raises(ValueError, match="no"):
            await running
        return task

    assert host.task(asyncio.run(main())).error_type == "ValueError"


def test_a_loop_that_closes_cancels_what_still_runs_in_it(host: Host) -> None:
    async def main() -> Task:
        with host.app.app_context():
            task, _ = await coroutines.create_task(forever(host), "c1")
        await until(host, task, TaskState.RUNNING)
        return task

    assert host.task(asyncio.run(main())).state is TaskState.CANCELLED


@pytest.mark.parametrize("own", [True, False])
def test_work_of_an_executor_is_tracked_and_gets_the_context(host: Host, own: bool) -> None:
    seen: list[Any] = []

    @host.extension.background(namespace_id="u1")
    def answer(run: Run, text: str) -> str:
        seen.append((language.get(), current_run.task_id, threading.current_thread() is threading.main_thread()))
        return text.upper()

    async def main(executor: ThreadPoolExecutor | None) -> tuple[Task, str | None]:
        language.set("nl")
        with host.app.app_context():
            task, future = await coroutines.submit(executor, answer, "c1", "a")
        return task, await future

    with ThreadPoolExecutor(1) as executor:
        task, result = asyncio.run(main(executor if own else None))
    assert result == "A"
    assert seen == [("nl", task.task_id, False)]
    assert host.task(task).state is TaskState.COMPLETED


def test_an_executors_future_that_is_cancelled_before_it_began_is_cancelled(host: Host) -> None:
    free = threading.Event()

    @host.extension.background(namespace_id="u1")
    def answer(run: Run) -> None:
        pytest.fail("not reached")

    async def main(executor: ThreadPoolExecutor) -> Task:
        held = asyncio.get_running_loop().run_in_executor(executor, free.wait, 20)
        with host.app.app_context():
            task, future = await coroutines.submit(executor, answer, "c1")
        assert host.task(task).state is TaskState.PENDING
        future.cancel()
        await until(host, task, TaskState.CANCELLED)
        free.set()
        await held
        return task

    with ThreadPoolExecutor(1) as executor:
        task = asyncio.run(main(executor))
    assert host.types(task) == ["end"]


def test_an_executors_future_that_is_cancelled_while_its_work_runs_does_not_end_the_task(host: Host) -> None:
    entered, go_on = threading.Event(), threading.Event()

    @host.extension.background(namespace_id="u1")
    def wait(run: Run) -> None:
        entered.set()
        go_on.wait(10)
        run.emit("token")

    async def main(executor: ThreadPoolExecutor) -> Task:
        with host.app.app_context():
            task, future = await coroutines.submit(executor, wait, "c1")
        await asyncio.to_thread(entered.wait, 10)
        future.cancel()
        await asyncio.sleep(0)
        assert host.task(task).state is TaskState.RUNNING
        go_on.set()
        await until(host, task, TaskState.COMPLETED)
        return task

    with ThreadPoolExecutor(1) as executor:
        task = asyncio.run(main(executor))
    assert host.types(task) == ["token", "end"]


def test_what_an_executor_refuses_does_not_stay_pending(host: Host) -> None:
    @host.extension.background(namespace_id="u1", session_id="s1")
    def answer(run: Run) -> None:
        pytest.fail("not reached")

    executor = ThreadPoolExecutor(1)
    executor.shutdown()

    async def main() -> None:
        with host.app.app_context():
            with pytest.raises(RuntimeError, match="shutdown"):
                await coroutines.submit(executor, answer, "c1")
            session = host.extension.sessions.get("s1")
        assert session is not None
        assert session.latest_task is not None
        await until(host, session.latest_task, TaskState.ERROR)

    asyncio.run(main())


def test_who_is_cancelled_while_a_task_begins_leaves_none_behind(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()
    store = host.state.store
    begin = store.begin

    def slowly(*args: Any, **options: Any) -> Any:
        begun = begin(*args, **options)
        asked.set()
        assert answer.wait(10)
        return begun

    monkeypatch.setattr(store, "begin", slowly)

    async def start() -> None:
        with host.app.app_context():
            await coroutines.create_task(forever(host).with_options(session_id="s1"), "c1")

    async def main() -> None:
        starting = asyncio.create_task(start())
        await asyncio.to_thread(asked.wait, 10)
        starting.cancel()
        answer.set()
        with pytest.raises(asyncio.CancelledError):
            await starting
        session = store.session("s1")
        await until(host, session.latest_task, TaskState.CANCELLED)

    asyncio.run(main())


def test_a_run_that_is_cancelled_while_it_begins_is_cancelled(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()
    store = host.state.store
    begin = store.begin

    def slowly(*args: Any, **options: Any) -> Any:
        asked.set()
        assert answer.wait(10)
        return begin(*args, **options)

    monkeypatch.setattr(store, "begin", slowly)

    async def work() -> None:
        with host.app.app_context():
            run = host.extension.run("c1", "s1", namespace_id="u1")
        async with run:
            pytest.fail("not reached")

    async def main() -> None:
        working = asyncio.create_task(work())
        await asyncio.to_thread(asked.wait, 10)
        working.cancel()
        answer.set()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(main())
    assert store.session("s1").latest_task.state is TaskState.CANCELLED


def test_a_call_is_seen_through_however_often_its_coroutine_is_cancelled() -> None:
    called, answer, given_up = threading.Event(), threading.Event(), []

    def call() -> None:
        called.set()
        assert answer.wait(10)
        raise ValueError("nobody hears this")

    async def main() -> None:
        waiting = asyncio.create_task(see_through(call, lambda: given_up.append(True)))
        await asyncio.to_thread(called.wait, 10)
        for _ in range(3):
            waiting.cancel()
            await asyncio.sleep(0)
        assert not waiting.done()
        answer.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())
    assert given_up == [True] * 3


def test_a_used_idempotency_key_is_told(host: Host) -> None:
    async def main() -> None:
        once = forever(host).with_options(idempotency_key="k")
        with host.app.app_context():
            task, _ = await coroutines.create_task(once, "c1")
            with pytest.raises(AlreadyStarted) as started:
                await coroutines.create_task(once, "c1")
        assert started.value.task.task_id == task.task_id

    asyncio.run(main())
