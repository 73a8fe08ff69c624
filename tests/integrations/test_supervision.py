"""A parent that looks after its children's tasks, whatever it learns of them, and however late."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from integrations.conftest import Host
from processes.client import wait_until
from servers import Proxy

from flask_sessionstatus import Run, Task, TaskState
from flask_sessionstatus.integrations.supervision import Child, Supervision
from flask_sessionstatus.queues import Work

HEARTBEAT = 0.2


@pytest.fixture
def storage(empty_redis: Callable[[], str]) -> str:
    return empty_redis()


@pytest.fixture
def child(storage: str) -> Iterator[Host]:
    """The process that works."""
    host = Host(storage, heartbeat=HEARTBEAT)
    yield host
    host.state.stop(5)


class Parent(Host):
    """The process that looks after it."""

    def __init__(self, storage: str) -> None:
        super().__init__(storage, heartbeat=HEARTBEAT)
        self.supervision = Supervision()
        self.alive = True
        self.stops = threading.Event()

    def take(self, task: Task, worker: str) -> Child:
        assert task.ticket is not None
        work = Work(self.state.engine, task.ticket, worker)
        return Child(self.supervision, work, HEARTBEAT, lambda: self.alive, self.stops.set)


@pytest.fixture
def parent(storage: str) -> Iterator[Parent]:
    host = Parent(storage)
    yield host
    host.supervision.close(5)
    host.state.stop(5)


@pytest.fixture
def worker() -> str:
    """The name that parent and child share."""
    return uuid4().hex


def enqueue(host: Host) -> Task:
    with host.app.app_context():
        return host.extension.enqueue("c1", namespace_id="u1")


def begin(host: Host, task: Task, worker: str) -> Run:
    with host.app.app_context():
        assert task.ticket is not None
        return host.extension.work(task.ticket, worker=worker).begin()


def wait(host: Host, task: Task, state: TaskState) -> Task:
    wait_until(lambda: host.task(task).state is state, 10, str(state))
    return host.task(task)


def held(parent: Parent, task: Task) -> bool:
    return any(beat.ref.task_id == task.task_id for beat in parent.state.engine.outbox.beats())


def test_what_a_child_takes_up_is_held_from_then_on_and_let_go_when_it_is_done(
    parent: Parent, child: Host, worker: str
) -> None:
    task = enqueue(child)
    parent.take(task, worker)
    run = begin(child, task, worker)
    wait_until(lambda: held(parent, task), 10, "the parent holds it")
    assert (parent.task(task).state, parent.task(task).attempt) == (TaskState.RUNNING, 1)
    run.finish(TaskState.COMPLETED)
    parent.alive = False
    wait_until(lambda: not held(parent, task), 10, "the parent lets go")
    assert child.types(task) == ["end"]


def test_what_no_child_takes_up_is_not_begun_by_the_parent(parent: Parent, child: Host, worker: str) -> None:
    task = enqueue(child)
    parent.take(task, worker)
    parent.alive = False
    parent.supervision.close(5)
    assert (parent.task(task).state, parent.task(task).attempt) == (TaskState.PENDING, 1)


def test_a_child_that_died_leaves_an_error_behind_what_it_stored(parent: Parent, child: Host, worker: str) -> None:
    task = enqueue(child)
    looked_after = parent.take(task, worker)
    run = begin(child, task, worker)
    run.emit("token")
    assert run.flush(5)
    looked_after.died(TaskState.ERROR, "WorkerLost", "It was killed.")
    looked_after.retry()
    found = wait(parent, task, TaskState.ERROR)
    assert (found.error_type, found.error_message) == ("WorkerLost", "It was killed.")
    assert child.types(task) == ["token", "end"]


def test_a_child_that_died_before_it_took_up_its_task_leaves_an_error_too(
    parent: Parent, child: Host, worker: str
) -> None:
    task = enqueue(child)
    parent.take(task, worker).died(TaskState.ERROR, "WorkerLost")
    assert wait(parent, task, TaskState.ERROR).attempt == 1


def test_a_child_that_died_after_it_was_asked_to_stop_leaves_its_task_cancelled(
    parent: Parent, child: Host, worker: str
) -> None:
    task = enqueue(child)
    looked_after = parent.take(task, worker)
    begin(child, task, worker)
    wait_until(lambda: held(parent, task), 10, "the parent holds it")
    child.stop(task)
    assert parent.stops.wait(10)
    looked_after.died(TaskState.ERROR, "WorkerLost")
    wait(parent, task, TaskState.CANCELLED)


@pytest.mark.parametrize("end", [TaskState.COMPLETED, TaskState.ERROR, TaskState.CANCELLED, TaskState.PENDING])
def test_what_a_child_said_itself_stays_whatever_became_of_it(
    parent: Parent, child: Host, worker: str, end: TaskState
) -> None:
    task = enqueue(child)
    run = begin(child, task, worker)
    if end is TaskState.PENDING:
        run.retry()
        run.__exit__(None, None, None)
    else:
        run.finish(end)
    before = parent.task(task)
    parent.take(task, worker).failed(TaskState.ERROR, "ValueError")
    parent.supervision.close(5)
    assert parent.task(task) == before
    assert before.state is end


def test_a_child_that_died_with_an_error_of_its_own_gets_no_further_attempt(
    parent: Parent, child: Host, worker: str
) -> None:
    task = enqueue(child)
    begin(child, task, worker).finish(TaskState.ERROR, ValueError("no"))
    before = parent.task(task)
    parent.take(task, worker).died(TaskState.ERROR, "WorkerLost")
    parent.supervision.close(5)
    assert parent.task(task) == before


def test_a_message_that_comes_again_leaves_its_task_pending(parent: Parent, child: Host, worker: str) -> None:
    task = enqueue(child)
    begin(child, task, worker)
    parent.take(task, worker).retry(delay=1)
    assert wait(parent, task, TaskState.PENDING).attempt == 2


def test_a_parent_whose_store_is_away_says_it_when_it_is_back(storage: str, child: Host, worker: str) -> None:
    proxy = Proxy(int(storage.rsplit(":", 1)[1].split("/")[0]))
    parent = Parent(proxy.url)
    task = enqueue(child)
    looked_after = parent.take(task, worker)
    run = begin(child, task, worker)
    wait_until(lambda: held(parent, task), 10, "the parent holds it")
    proxy.cut()
    looked_after.died(TaskState.ERROR, "WorkerLost")
    other = enqueue(child)
    begin(child, other, worker)
    parent.take(other, worker).died(TaskState.ERROR, "WorkerLost")
    assert child.task(task).state is TaskState.RUNNING
    proxy.mend()
    for each in (task, other):
        assert wait(child, each, TaskState.ERROR).error_type == "WorkerLost"
    assert run.wait_cancelled(10)
    parent.supervision.close(5)
    parent.state.stop(5)
    proxy.close()
