"""The store's clock jumps back: a deadline of before counts as one lease from now, whoever looks first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import Clock, Job, a_session, a_task, begin

from flask_sessionstatus.errors import TaskRunning
from flask_sessionstatus.models import ORIGIN, Task, TaskState
from flask_sessionstatus.stores.base import Change, Limits, Store, Verdict

LEASE = Limits().lease
PENDING_AGE = Limits().max_pending_age
HOUR = 3_600_000


def by_session(job: Job) -> Task:
    session = job.store.session(job.ref.session_id)
    assert session is not None
    assert session.latest_task is not None
    return session.latest_task


def by_listing(job: Job) -> Task:
    (session,) = job.store.sessions("u1", 10, None).sessions
    assert session.latest_task is not None
    return session.latest_task


def by_tasks(job: Job) -> Task:
    tasks = job.store.tasks(job.ref.session_id, 10)
    assert tasks is not None
    return tasks[0]


def by_events(job: Job) -> Task:
    page = job.store.events(job.ref, ORIGIN, 10)
    assert page is not None
    return page.task


READS: dict[str, Callable[[Job], Task]] = {
    "task": lambda job: job.task,
    "tasks": by_tasks,
    "session": by_session,
    "listing": by_listing,
    "snapshot": lambda job: job.store.snapshot(job.ref.conversation_id).task(job.ref.task_id),
    "events": by_events,
}


def seen(job: Job) -> set[TaskState]:
    """The states that the ways of reading find."""
    return {read(job).state for read in READS.values()}


@pytest.mark.parametrize("jump", [1, LEASE, HOUR])
@pytest.mark.parametrize("first", READS)
def test_a_dead_worker_is_seen_one_lease_after_the_first_look(
    store: Store, clock: Clock, first: str, jump: int
) -> None:
    job = begin(store)
    clock.move(-jump)
    task = READS[first](job)
    assert (task.state, task.deadline) == (TaskState.RUNNING, clock.now + LEASE)
    clock.move(LEASE - 1)
    assert seen(job) == {TaskState.RUNNING}
    clock.move(1)
    assert seen(job) == {TaskState.LOST}
    assert job.task.finished_at == clock.now


def test_a_living_worker_is_never_lost(store: Store, clock: Clock) -> None:
    job = begin(store)
    clock.move(-HOUR)
    for renew in (job.beat, lambda: job.append(["a"]), lambda: job.append(change=Change(current=1))):
        clock.move(LEASE - 1)
        assert seen(job) == {TaskState.RUNNING}
        assert renew().verdict is Verdict.STORED
        assert job.task.deadline == clock.now + LEASE
    clock.move(LEASE)
    assert seen(job) == {TaskState.LOST}


def test_a_deadline_that_is_nearer_than_a_lease_stays(store: Store, clock: Clock) -> None:
    job = begin(store)
    clock.move(20_000)
    clock.move(-10_000)
    assert seen(job) == {TaskState.RUNNING}
    clock.move(LEASE - 10_000)
    assert seen(job) == {TaskState.LOST}


def test_a_dead_worker_holds_nobody_up(store: Store, clock: Clock) -> None:
    begin(store, a_session("s1"), a_task("t1"))
    clock.move(-HOUR)
    with pytest.raises(TaskRunning):
        begin(store, a_session("s2"), a_task("t2"), "reject")
    clock.move(LEASE)
    assert begin(store, a_session("s2"), a_task("t2"), "reject").task.state is TaskState.RUNNING


def test_a_dead_worker_that_was_asked_to_stop_is_cancelled_one_lease_later(store: Store, clock: Clock) -> None:
    job = begin(store)
    clock.move(-HOUR)
    asked = job.cancel()
    assert asked is not None
    assert asked.state is TaskState.RUNNING
    clock.move(LEASE)
    assert seen(job) == {TaskState.CANCELLED}
    assert job.end().verdict is Verdict.CLOSED


def test_a_queued_task_waits_up_to_its_maximum_age_from_then(store: Store, clock: Clock) -> None:
    job = begin(store, task=a_task(pending=True, leased=False))
    clock.move(PENDING_AGE // 2)
    clock.move(-2 * HOUR)
    assert job.task.deadline == clock.now + PENDING_AGE
    clock.move(PENDING_AGE - 1)
    assert seen(job) == {TaskState.PENDING}
    clock.move(1)
    assert job.task.state is TaskState.LOST


def test_a_queued_task_that_begins_has_a_lease(store: Store, clock: Clock) -> None:
    job = begin(store, task=a_task(pending=True, leased=False))
    job.append(change=Change(running=True))
    clock.move(-HOUR)
    assert job.task.deadline == clock.now + LEASE
    clock.move(LEASE)
    assert seen(job) == {TaskState.LOST}


def test_what_has_ended_stays_as_it_is(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.end(result="1")
    before = job.task
    clock.move(-HOUR)
    assert job.task == before
    clock.move(LEASE)
    assert seen(job) == {TaskState.COMPLETED}
    assert job.task == before
