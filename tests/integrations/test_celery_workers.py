"""Celery workers that are shut down, killed as a whole, or lose their store."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from faults.stores import FaultyRedis
from integrations.celeries import LEASE, Publisher, publishing, server, worker
from processes.client import wait_until

from flask_sessionstatus import TaskState

TERMINATE_AFTER = 0.3
SOON = 1.0
PREFORK = ("--pool", "prefork", "--concurrency", "2")


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture
def publisher(broker: str) -> Iterator[Publisher]:
    with publishing(broker) as found:
        yield found
        found.signs.flushall()


def test_a_child_that_does_not_ask_is_terminated_after_a_stop_where_the_host_says_so(
    broker: str, publisher: Publisher, tmp_path: Path
) -> None:
    with worker(broker, tmp_path, *PREFORK, TERMINATE_AFTER=str(TERMINATE_AFTER)):
        job = publisher.begun("deaf")
        stopped_at = time.monotonic()
        job.stop()
        job.wait(TaskState.CANCELLED)
        assert TERMINATE_AFTER <= time.monotonic() - stopped_at < TERMINATE_AFTER + 2 * SOON
        assert job.types == ["number", "end"]


def test_a_worker_that_is_killed_as_a_whole_leaves_its_tasks_lost_and_what_is_delivered_again_is_a_new_attempt(
    broker: str, publisher: Publisher, tmp_path: Path
) -> None:
    with worker(broker, tmp_path, *PREFORK) as first:
        acknowledged, late = publisher.begun("deaf"), publisher.begun("working_late")
        killed_at = time.monotonic()
        first.kill_all()
        for job in (acknowledged, late):
            job.wait(TaskState.LOST)
        assert time.monotonic() - killed_at < LEASE + SOON
    with worker(broker, tmp_path, *PREFORK):
        assert late.wait(TaskState.RUNNING).attempt == 2
        wait_until(lambda: late.types == ["number", "attempt", "number"], 5, "the second attempt emits")
        late.stop()
        late.wait(TaskState.CANCELLED)
    assert (acknowledged.task.state, acknowledged.types) == (TaskState.LOST, ["number"])


def test_a_warm_shutdown_waits_for_what_runs_and_stores_its_end(
    broker: str, publisher: Publisher, tmp_path: Path
) -> None:
    with worker(broker, tmp_path, *PREFORK) as started:
        job = publisher.begun("working", 1)
        started.send_signal(signal.SIGTERM)
        assert started.process.wait(20) == 0
    assert (job.task.state, job.types) == (TaskState.COMPLETED, ["number", "end"])


def test_a_cold_shutdown_is_an_error_and_leaves_what_the_broker_still_has_to_the_next_worker(
    broker: str, publisher: Publisher, tmp_path: Path
) -> None:
    with worker(broker, tmp_path, *PREFORK) as started:
        acknowledged, late = publisher.begun("deaf"), publisher.begun("working_late")
        started.send_signal(signal.SIGQUIT)
        started.process.wait(20)
    assert (acknowledged.task.state, acknowledged.task.error_type) == (TaskState.ERROR, "Shutdown")
    assert (late.task.state, late.task.attempt) == (TaskState.PENDING, 2)
    with worker(broker, tmp_path, *PREFORK):
        assert late.wait(TaskState.RUNNING).attempt == 2


@pytest.fixture
def store() -> Iterator[FaultyRedis]:
    """A store that can be paused while the broker goes on."""
    found = FaultyRedis().start()
    yield found
    found.remove()


def test_a_worker_whose_store_hangs_puts_messages_back_and_stores_what_ended_before_it_goes(
    broker: str, store: FaultyRedis, tmp_path: Path
) -> None:
    with (
        publishing(broker, store.url) as publisher,
        worker(broker, tmp_path, *PREFORK, store=store.url) as started,
    ):
        held_back = publisher.send("plain", 7, options={"countdown": 0.5})
        store.pause()
        message = f"Message {held_back.message_id} comes again"
        wait_until(lambda: message in started.log, 10, "the message is put back")
        store.go_on()
        held_back.wait(TaskState.COMPLETED)

        ending = publisher.begun("deaf", 0.5)
        process = psutil.Process(ending.pid)
        store.pause()
        wait_until(lambda: ending.result.ready(), 10, "Celery knows that it has ended")
        started.send_signal(signal.SIGTERM)
        with pytest.raises(psutil.TimeoutExpired):  # it does not go without having stored the end
            process.wait(2)
        store.go_on()
        started.process.wait(20)
        ending.wait(TaskState.COMPLETED)
        assert ending.types == ["number", "end"]
        publisher.signs.flushall()
