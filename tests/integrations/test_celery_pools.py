"""Celery's thread and gevent pools: there the tasks live and die with the worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from celery.exceptions import TaskRevokedError
from integrations.celeries import HEARTBEAT, LEASE, Publisher, Worker, publishing, server, worker
from processes.client import wait_until

from flask_sessionstatus import TaskState

POOLS = ("threads", "gevent")
TERMINATE_AFTER = 0.3


@pytest.fixture(scope="module", params=POOLS)
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def broker(pool: str) -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture(scope="module", autouse=True)
def started(broker: str, pool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    options = ("--pool", pool, "--concurrency", "8")
    with worker(broker, tmp_path_factory.mktemp(pool), *options, TERMINATE_AFTER=str(TERMINATE_AFTER)) as found:
        yield found


@pytest.fixture(scope="module")
def publisher(broker: str, started: Worker) -> Iterator[Publisher]:
    with publishing(broker) as found:
        yield found


def test_tasks_beside_one_another_have_their_own_runs(publisher: Publisher) -> None:
    jobs = [publisher.send("emitting", count) for count in range(1, 9)]
    for count, job in enumerate(jobs, 1):
        task = job.wait(TaskState.COMPLETED)
        assert job.types == ["number"] * count + ["end"]
        assert publisher.state.store.result(task.session_id, task.task_id) == f'{{"count":{count}}}'


def test_an_exception_is_the_tasks_error(publisher: Publisher) -> None:
    job = publisher.send("raising", "no such page")
    task = job.wait(TaskState.ERROR)
    assert (task.error_type, task.error_message, job.types) == ("ValueError", "no such page", ["number", "end"])


def test_a_function_that_leaves_its_process_is_an_error(publisher: Publisher) -> None:
    job = publisher.send("leaving", 3)
    task = job.wait(TaskState.ERROR)
    assert (task.error_type, job.types) == ("SystemExit", ["number", "end"])


def test_a_retry_is_a_new_attempt(publisher: Publisher) -> None:
    job = publisher.send("retrying", str(uuid4()), 2)
    task = job.wait(TaskState.COMPLETED)
    assert (task.attempt, job.types.count("attempt")) == (3, 2)


def test_a_message_that_comes_twice_is_worked_on_once(publisher: Publisher, started: Worker) -> None:
    job = publisher.begun("working", 1)
    sign = str(uuid4())
    again = publisher.celery.send_task("celery_host.working", [sign, 0], headers={"sessionstatus": job.ref.task_id})
    wait_until(lambda: f"Message {again.id} is dropped" in started.log, 10, "the second message is dropped")
    task = job.wait(TaskState.COMPLETED)
    assert (task.attempt, job.types) == (1, ["number", "end"])
    assert publisher.signs.get(sign) is None


def test_a_task_that_is_stopped_while_it_runs_ends_when_it_asks(publisher: Publisher) -> None:
    job = publisher.begun("working")
    job.stop()
    job.wait(TaskState.CANCELLED)
    with pytest.raises(TaskRevokedError):
        job.result.get(timeout=10)


def test_a_message_that_is_revoked_before_it_is_worked_on_cancels_its_task(publisher: Publisher) -> None:
    sign = str(uuid4())
    job = publisher.send("working", sign, 0, options={"countdown": 1})
    publisher.celery.control.revoke(job.message_id)
    job.wait(TaskState.CANCELLED)
    assert publisher.signs.get(sign) is None


@pytest.mark.parametrize("pool", ["threads"], indirect=True)
def test_a_silent_task_is_not_lost(publisher: Publisher) -> None:
    job = publisher.begun("working", 2.2 * LEASE)
    while job.task.state is TaskState.RUNNING:
        time.sleep(HEARTBEAT / 5)
    assert (job.task.state, job.task.attempt) == (TaskState.COMPLETED, 1)


# Celery can neither limit nor terminate threads.
in_greenlets = pytest.mark.parametrize("pool", ["gevent"], indirect=True)


@in_greenlets
def test_a_greenlet_that_reaches_its_time_limit_is_an_error_of_its_own_type(publisher: Publisher) -> None:
    job = publisher.send("limited", 20, False, options={"time_limit": 1})
    task = job.wait(TaskState.ERROR)
    assert (task.error_type, job.types) == ("TimeLimitExceeded", ["number", "end"])
    assert task.error_message == "The time limit of 1 s was exceeded."


@in_greenlets
def test_a_greenlet_that_is_revoked_and_terminated_is_cancelled(publisher: Publisher) -> None:
    job = publisher.begun("deaf")
    publisher.celery.control.revoke(job.message_id, terminate=True)
    job.wait(TaskState.CANCELLED)
    assert job.types == ["number", "end"]


@in_greenlets
def test_a_greenlet_that_does_not_ask_is_terminated_after_a_stop_where_the_host_says_so(publisher: Publisher) -> None:
    job = publisher.begun("deaf")
    stopped_at = time.monotonic()
    job.stop()
    job.wait(TaskState.CANCELLED)
    assert time.monotonic() - stopped_at >= TERMINATE_AFTER


@in_greenlets
def test_a_greenlet_that_never_pauses_for_two_leases_is_not_lost(publisher: Publisher) -> None:
    job = publisher.send("computing", 2.2 * LEASE)
    job.wait(TaskState.RUNNING)
    while job.task.state is TaskState.RUNNING:
        time.sleep(HEARTBEAT / 5)
    assert (job.task.state, job.task.attempt) == (TaskState.COMPLETED, 1)
