"""Work in greenlets, in a process that gevent has patched: `greenlets.py <case>`; each case asserts what it says."""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402
import time  # noqa: E402
from contextvars import ContextVar  # noqa: E402
from typing import Any  # noqa: E402

import gevent as real  # noqa: E402
from gevent.pool import Group, Pool  # noqa: E402
from integrations.conftest import Host  # noqa: E402

from flask_sessionstatus import Run, Task, TaskState, current_run  # noqa: E402
from flask_sessionstatus.integrations import gevent  # noqa: E402

WAIT = 10.0
language: ContextVar[str] = ContextVar("language", default="none")


def until(host: Host, task: Task, state: TaskState) -> None:
    with real.Timeout(WAIT):
        while host.task(task).state is not state:
            real.sleep(0.005)


def is_tracked_from_its_spawn_to_its_end(host: Host) -> None:
    @host.extension.background(namespace_id="u1", type="report")
    def answer(run: Run, text: str) -> str:
        assert (current_run.task_id, language.get()) == (run.task_id, "nl")
        run.emit("token", {"text": text})
        return text.upper()

    with host.app.app_context():
        language.set("nl")
        task, greenlet = gevent.spawn(answer, "c1", text="a")
        assert (host.task(task).state, host.task(task).type) == (TaskState.PENDING, "report")
    assert greenlet.get(timeout=WAIT) == "A"
    assert (host.task(task).state, host.types(task)) == (TaskState.COMPLETED, ["token", "end"])


def waits_for_its_place_in_a_pool_as_pending(host: Host) -> None:
    order: list[str] = []

    def waiting() -> list[str]:
        return [task["state"] for task in host.state.store.snapshot("second").tasks.values()]

    @host.extension.background(namespace_id="u1")
    def answer(run: Run, name: str) -> None:
        order.append(name)
        if name == "first":
            while not waiting():
                real.sleep(0.005)
            assert waiting() == ["pending"]

    pool = Pool(1)
    with host.app.app_context():
        first, _ = gevent.submit(pool, answer, "first", "first")
        second, _ = gevent.submit(pool, answer, "second", "second")
        third, _ = gevent.submit(Group(), answer, "third", "third")
    for task in (first, second, third):
        until(host, task, TaskState.COMPLETED)
    assert sorted(order) == ["first", "second", "third"]


def is_cancelled_when_it_is_killed(host: Host) -> None:
    entered = real.event.Event()

    @host.extension.background(namespace_id="u1")
    def wait(run: Run) -> None:
        entered.set()
        real.sleep(WAIT)

    with host.app.app_context():
        task, greenlet = gevent.spawn(wait, "c1")
    assert entered.wait(WAIT)
    greenlet.kill()
    assert greenlet.successful()  # so gevent says of a killed one
    assert (host.task(task).state, host.types(task)) == (TaskState.CANCELLED, ["end"])


def is_cancelled_when_it_is_killed_before_it_began(host: Host) -> None:
    @host.extension.background(namespace_id="u1")
    def wait(run: Run) -> None:
        raise AssertionError("not reached")

    with host.app.app_context():
        task, greenlet = gevent.spawn(wait, "c1")
        greenlet.kill()
    until(host, task, TaskState.CANCELLED)
    assert host.types(task) == ["end"]


def is_cancelled_when_it_is_killed_in_a_run_of_its_own(host: Host) -> None:
    runs: list[Run] = []

    def work() -> None:
        with host.app.app_context(), host.extension.run("c1", namespace_id="u1") as run:
            runs.append(run)
            real.sleep(WAIT)

    greenlet = real.spawn(work)
    while not runs:
        real.sleep(0.005)
    greenlet.kill()
    assert host.task(runs[0]).state is TaskState.CANCELLED


def is_an_error_when_it_raises(host: Host) -> None:
    @host.extension.background(namespace_id="u1")
    def fail(run: Run) -> None:
        raise ValueError("no")

    with host.app.app_context():
        task, greenlet = gevent.spawn(fail, "c1")
    greenlet.join(WAIT)
    assert isinstance(greenlet.exception, ValueError)
    assert host.task(task).error_type == "ValueError"


def is_not_left_pending_by_a_pool_that_refuses(host: Host) -> None:
    class Refusing:
        def spawn(self, function: Any) -> Any:
            raise RuntimeError("no more")

    @host.extension.background(namespace_id="u1", session_id="s1")
    def answer(run: Run) -> None:
        raise AssertionError("not reached")

    with host.app.app_context():
        try:
            gevent.submit(Refusing(), answer, "c1")
        except RuntimeError:
            session = host.extension.sessions.get("s1")
            assert session is not None
            assert session.latest_task is not None
            until(host, session.latest_task, TaskState.ERROR)
        else:
            raise AssertionError("It was not refused.")


def stops_when_it_is_asked_to(host: Host) -> None:
    @host.extension.background(namespace_id="u1")
    def wait(run: Run) -> None:
        assert run.wait_cancelled(WAIT)
        run.check_cancelled()

    with host.app.app_context():
        task, greenlet = gevent.spawn(wait, "c1")
    until(host, task, TaskState.RUNNING)
    host.stop(task)
    assert greenlet.get(timeout=WAIT) is None
    assert host.task(task).state is TaskState.CANCELLED


def compute(seconds: float) -> int:
    """Hold the processor without letting any other greenlet have a turn; says how much was done."""
    rounds, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        rounds += sum(range(100)) > 0
    return rounds


def is_not_lost_while_it_computes_in_memory(host: Host) -> None:
    with host.app.app_context(), host.extension.run("c1", namespace_id="u1") as run:
        real.sleep(0.1)
        compute(3.0)
        assert host.task(run).state is TaskState.RUNNING


def computes(host: Host) -> None:
    """For the test's own eyes: it says where it works, computes for three leases, and says when it is done."""
    with host.app.app_context(), host.extension.run("c1", namespace_id="u1") as run:
        real.sleep(0.1)
        print(run.session_id, run.task_id, flush=True)  # noqa: T201
        compute(3.0)
        print("done", flush=True)  # noqa: T201
        sys.stdin.readline()


CASES = {name: case for name, case in list(globals().items()) if name.split("_")[0] in ("is", "waits", "stops")}

if __name__ == "__main__":
    case = {**CASES, "computes": computes}[sys.argv[1]]
    tested = Host(*sys.argv[2:])
    case(tested)
    assert tested.state.stop(5)
