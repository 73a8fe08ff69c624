"""Celery's prefork pool: what a task returns, and every way in which one can end or die, told once and how soon."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from celery.exceptions import TaskRevokedError
from integrations.celeries import (
    HEARTBEAT,
    LEASE,
    PATIENCE,
    Job,
    Publisher,
    Worker,
    publishing,
    server,
    worker,
)
from processes.client import wait_until

from flask_sessionstatus import Task, TaskState

SOON = 1.0
"""How long something may take that is told at once when Celery knows it, on a busy machine (s)."""


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture(scope="module", autouse=True)
def prefork(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with worker(broker, tmp_path_factory.mktemp("prefork"), "--pool", "prefork", "--concurrency", "4") as started:
        yield started


@pytest.fixture(scope="module")
def publisher(broker: str, prefork: Worker) -> Iterator[Publisher]:
    with publishing(broker) as found:
        yield found


def ended(job: Job, task: Task) -> tuple[str, str | None, list[str]]:
    """How a task ended: its state, its type of error, and its events."""
    return task.state.value, task.error_type, job.types


def test_a_task_that_knows_nothing_of_the_package_is_pending_runs_and_completes(publisher: Publisher) -> None:
    job = publisher.send("plain", {"answer": 42}, type="report")
    assert job.result.get(timeout=10) == {"answer": 42}
    task = job.task
    assert (task.state, task.type, task.attempt, job.types) == (TaskState.COMPLETED, "report", 1, ["end"])
    assert publisher.state.store.result(task.session_id, task.task_id) == '{"answer":42}'


def test_a_task_has_a_run_with_which_it_emits_and_tells_its_progress(publisher: Publisher) -> None:
    job = publisher.send("emitting", 3)
    task = job.wait(TaskState.COMPLETED)
    assert job.types == ["number", "number", "number", "end"]
    assert (task.progress.current, task.progress.total) == (3, 3)
    assert publisher.state.store.result(task.session_id, task.task_id) == '{"count":3}'


def test_a_result_that_the_task_gives_itself_is_kept_in_place_of_what_it_returns(publisher: Publisher) -> None:
    job = publisher.send("giving_a_result_of_its_own")
    assert job.result.get(timeout=10) == "for Celery"
    assert publisher.state.store.result(job.ref.session_id, job.ref.task_id) == '{"for":"the page"}'


def test_what_is_no_json_is_no_result_and_the_log_says_so(publisher: Publisher, prefork: Worker) -> None:
    job = publisher.send("not_json")
    task = job.wait(TaskState.COMPLETED)
    assert not task.result_available
    assert f"What task {task.task_id[:8]} returned is not kept as its result" in prefork.log


def test_a_message_without_a_ticket_runs_as_ever(publisher: Publisher) -> None:
    result = publisher.celery.send_task("celery_host.plain", [7])
    assert result.get(timeout=10) == 7


# Its function ends it


def test_an_exception_is_the_tasks_error_behind_what_was_emitted(publisher: Publisher) -> None:
    job = publisher.send("raising", "no such page")
    with pytest.raises(ValueError, match="no such page"):
        job.result.get(timeout=10)
    task = job.task
    assert ended(job, task) == ("error", "ValueError", ["number", "end"])
    assert task.error_message == "no such page"


def test_a_soft_time_limit_is_an_error_when_it_escapes_and_else_what_the_task_makes_of_it(publisher: Publisher) -> None:
    escapes = publisher.send("limited", 20, False, options={"soft_time_limit": 1})
    caught = publisher.send("limited", 20, True, options={"soft_time_limit": 1})
    task = escapes.wait(TaskState.ERROR)
    assert ended(escapes, task) == ("error", "SoftTimeLimitExceeded", ["number", "end"])
    task = caught.wait(TaskState.COMPLETED)
    assert publisher.state.store.result(task.session_id, task.task_id) == '"what there was"'


def test_a_task_that_ignores_its_message_is_cancelled(publisher: Publisher) -> None:
    job = publisher.send("ignoring")
    assert ended(job, job.wait(TaskState.CANCELLED)) == ("cancelled", None, ["end"])


def test_a_rejected_message_is_an_error_and_one_that_is_put_back_a_new_attempt(publisher: Publisher) -> None:
    dropped = publisher.send("rejecting", str(uuid4()), False)
    assert ended(dropped, dropped.wait(TaskState.ERROR)) == ("error", "Reject", ["end"])
    again = publisher.send("rejecting", str(uuid4()), True)
    task = again.wait(TaskState.COMPLETED)
    assert (task.attempt, again.types) == (2, ["attempt", "end"])


# It is stopped


def test_a_task_that_is_stopped_while_it_waits_never_runs(publisher: Publisher) -> None:
    sign = str(uuid4())
    job = publisher.send("working", sign, 0, options={"countdown": 1})
    assert job.stop().state is TaskState.CANCELLED
    with pytest.raises(TaskRevokedError):
        job.result.get(timeout=10)
    assert publisher.signs.get(sign) is None
    assert job.types == ["end"]


def test_a_task_that_is_stopped_while_it_runs_ends_when_it_asks(publisher: Publisher, prefork: Worker) -> None:
    job = publisher.begun("working")
    job.stop()
    assert ended(job, job.wait(TaskState.CANCELLED)) == ("cancelled", None, ["number", "end"])
    with pytest.raises(TaskRevokedError):
        job.result.get(timeout=10)
    assert f"[{job.message_id}] raised" not in prefork.log


def test_a_message_that_is_revoked_before_it_is_worked_on_cancels_its_task(publisher: Publisher) -> None:
    sign = str(uuid4())
    job = publisher.send("working", sign, 0, options={"countdown": 1})
    publisher.celery.control.revoke(job.message_id)
    assert ended(job, job.wait(TaskState.CANCELLED)) == ("cancelled", None, ["end"])
    assert publisher.signs.get(sign) is None


def test_a_message_that_has_expired_cancels_its_task(publisher: Publisher) -> None:
    job = publisher.send("plain", options={"countdown": 1, "expires": 0.5})
    assert ended(job, job.wait(TaskState.CANCELLED)) == ("cancelled", None, ["end"])


# It is tried again


@pytest.mark.parametrize("name", ["retrying", "retried"])
def test_a_retry_is_a_new_attempt(publisher: Publisher, name: str) -> None:
    job = publisher.send(name, str(uuid4()), 2)
    task = job.wait(TaskState.COMPLETED)
    assert (task.attempt, job.types.count("attempt")) == (3, 2)
    assert publisher.state.store.result(task.session_id, task.task_id) == "3"


def test_a_task_that_waits_for_its_next_attempt_is_pending_and_can_be_stopped(publisher: Publisher) -> None:
    sign = str(uuid4())
    job = publisher.send("retrying", sign, 2, 30)
    publisher.wait_for_sign(sign)
    task = job.wait(TaskState.PENDING)
    assert (task.attempt, job.types) == (2, ["number"])
    age = publisher.state.store.limits.max_pending_age
    assert task.deadline is not None
    assert task.deadline - task.updated_at > age + 20_000
    assert job.stop().state is TaskState.CANCELLED


def test_retries_that_are_used_up_are_the_last_error(publisher: Publisher) -> None:
    job = publisher.send("retrying", str(uuid4()), 9)
    task = job.wait(TaskState.ERROR)
    assert (task.attempt, task.error_type, task.error_message) == (3, "ConnectionError", "time 3")


def test_a_retry_that_does_not_raise_leaves_the_task_to_the_next_attempt(publisher: Publisher) -> None:
    job = publisher.send("retrying_without_raising", str(uuid4()))
    assert job.wait(TaskState.COMPLETED).attempt == 2


def test_a_task_that_replaces_itself_goes_on_in_the_other(publisher: Publisher) -> None:
    job = publisher.send("replacing", 7)
    task = job.wait(TaskState.COMPLETED)
    assert (task.attempt, job.types) == (2, ["number", "attempt", "end"])
    assert publisher.state.store.result(task.session_id, task.task_id) == "7"


def test_a_step_of_a_chain_is_pending_until_the_chain_comes_to_it(publisher: Publisher) -> None:
    first = publisher.celery.signature("celery_host.plain", [3])
    step = publisher.send_in(lambda tracked: (first | tracked).apply_async(), "emitting")
    task = step.wait(TaskState.COMPLETED)
    assert publisher.state.store.result(task.session_id, task.task_id) == '{"count":3}'


# Its lease


def test_a_task_that_is_silent_or_holds_its_interpreter_for_two_leases_is_not_lost(publisher: Publisher) -> None:
    silent = publisher.begun("deaf", 2.2 * LEASE)
    holding = publisher.send("holding_the_interpreter", 2.2 * LEASE)
    holding.wait(TaskState.RUNNING)
    seen = set()
    while {silent.task.state, holding.task.state} & {TaskState.RUNNING, TaskState.LOST}:
        seen |= {silent.task.state, holding.task.state}
        time.sleep(HEARTBEAT / 5)
    assert seen <= {TaskState.RUNNING, TaskState.COMPLETED}
    for job in (silent, holding):
        task = job.task
        assert (task.state, task.attempt) == (TaskState.COMPLETED, 1)
        assert task.finished_at is not None
        assert task.started_at is not None
        assert task.finished_at - task.started_at > 2000 * LEASE


def test_a_child_lingers_after_the_end_and_stores_it_again_when_the_store_has_lost_it(publisher: Publisher) -> None:
    job = publisher.send("emitting", 3)
    job.wait(TaskState.COMPLETED)
    store = publisher.state.store
    publisher.lose_the_store()
    assert store.task(job.ref.session_id, job.ref.task_id) is None
    wait_until(lambda: store.task(job.ref.session_id, job.ref.task_id) is not None, LEASE, "it is stored again")
    assert job.wait(TaskState.COMPLETED).attempt == 1
    assert job.types == ["number", "number", "number", "end"]


# Its process ends


def test_a_killed_child_is_an_error_at_once_and_what_it_stored_stays(publisher: Publisher) -> None:
    job = publisher.begun("deaf")
    os.kill(job.pid, signal.SIGKILL)
    wait_until(lambda: job.result.state == "FAILURE", PATIENCE, "Celery knows")
    task = job.wait(TaskState.ERROR, SOON)
    assert ended(job, task) == ("error", "WorkerLostError", ["number", "end"])
    assert "SIGKILL" in str(task.error_message)


def test_a_child_that_is_killed_before_it_takes_up_its_task_is_an_error_as_well(publisher: Publisher) -> None:
    job = publisher.send("dying_before")
    task = job.wait(TaskState.ERROR)
    assert (task.state, task.error_type, job.types[-1]) == (TaskState.ERROR, "WorkerLostError", "end")


def test_a_hard_time_limit_is_an_error_of_its_own_type_once(publisher: Publisher) -> None:
    job = publisher.send("limited", 20, True, options={"time_limit": 1})
    task = job.wait(TaskState.ERROR)
    assert ended(job, task) == ("error", "TimeLimitExceeded", ["number", "end"])
    assert task.error_message == "The time limit of 1 s was exceeded."


def test_a_message_that_a_dying_child_gives_back_is_a_new_attempt(publisher: Publisher) -> None:
    job = publisher.send("dying_once", str(uuid4()))
    task = job.wait(TaskState.COMPLETED)
    assert (task.attempt, job.types) == (2, ["number", "attempt", "number", "end"])


def test_a_task_that_is_revoked_and_terminated_while_it_runs_is_cancelled(publisher: Publisher) -> None:
    job = publisher.begun("deaf")
    publisher.celery.control.revoke(job.message_id, terminate=True)
    assert ended(job, job.wait(TaskState.CANCELLED)) == ("cancelled", None, ["number", "end"])


def test_a_function_that_leaves_its_process_is_an_error_at_once(publisher: Publisher) -> None:
    job = publisher.send("leaving", 3)
    task = job.wait(TaskState.ERROR)
    assert ended(job, task) == ("error", "WorkerLostError", ["number", "end"])
