"""Jobs of RQ while the store is away, or RQ's own Redis."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import rq
from faults.stores import FaultyRedis
from integrations.queued import HEARTBEAT, LEASE, Host
from processes.client import wait_until

if TYPE_CHECKING:
    from integrations.rq_workers import Jobs

pytest_plugins = ["integrations.rq_workers"]


@pytest.fixture
def store() -> Iterator[FaultyRedis]:
    server = FaultyRedis(persistent=True).start()
    yield server
    server.remove()


@pytest.fixture
def jobs(store: FaultyRedis, redis_url: Callable[[str], str], tmp_path: Path) -> Iterator[Jobs]:
    from integrations.rq_workers import Jobs

    host = Host(store.url, redis_url("newest"))
    jobs = Jobs(host, tmp_path)
    yield jobs
    jobs.close()
    host.close()


# The store


def test_what_a_work_horse_could_not_store_its_worker_stores_when_the_store_is_back(
    jobs: Jobs, store: FaultyRedis
) -> None:
    job, next_one = jobs.enqueue(), jobs.queue.enqueue("puppet.hello")
    jobs.worker()
    job.begins()
    job.do("emit", "a")
    store.kill()
    job.do("emit unstored", "b", "c")
    job.tell("return", {"answer": 42})
    wait_until(lambda: next_one.is_finished, 15, "the worker goes on meanwhile")
    store.start()
    wait_until(lambda: job.state == "completed", 15, "the end")
    assert (job.events(), job.result) == (["a", "b", "c", "end"], {"answer": 42})


def test_what_a_work_horse_handed_over_outlives_a_store_that_comes_back_empty(jobs: Jobs, store: FaultyRedis) -> None:
    job = jobs.enqueue()
    jobs.worker()
    job.begins()
    job.do("emit", "a")
    store.kill()
    job.tell("fail", "ValueError", "no")
    wait_until(lambda: job.status == "failed", 15, "the job has failed")
    store.start()
    store.client.flushall()
    wait_until(lambda: job.host.state.store.task(job.ref.session_id, job.ref.task_id), 15, "it is made again")
    job.comes_to("error")
    assert (job.task.error_type, job.events()) == ("ValueError", ["a", "end"])


def test_a_work_horse_that_is_killed_while_the_store_is_away_is_an_error_when_it_is_back(
    jobs: Jobs, store: FaultyRedis
) -> None:
    job = jobs.enqueue()
    jobs.worker()
    job.begins()
    job.do("emit", "a")
    store.kill()
    job.tell("kill")
    wait_until(lambda: job.status == "failed", 15, "RQ knows")
    store.start()
    job.comes_to("error")
    assert (job.task.error_type, job.events()) == ("WorkHorseTerminated", ["a", "end"])


def test_a_retry_while_the_store_is_away_is_an_attempt_all_the_same(jobs: Jobs, store: FaultyRedis) -> None:
    job = jobs.enqueue(retry=rq.Retry(max=1))
    jobs.worker()
    job.begins(attempt=1)
    store.kill()
    job.do("emit unstored", "a")
    job.tell("fail", "ValueError", "no")
    wait_until(lambda: job.status == "queued", 15, "RQ has it in its queue")
    store.start()
    job.begins(attempt=2)
    job.tell("return", 1)
    job.comes_to("completed")
    assert job.events() == ["a", "attempt", "end"]


def test_a_job_waits_for_the_store_and_lets_others_pass(jobs: Jobs, store: FaultyRedis) -> None:
    job, other = jobs.enqueue(), jobs.queue.enqueue("puppet.hello")
    store.kill()
    jobs.worker()
    wait_until(lambda: other.is_finished, LEASE + 10, "one that is not tracked has its turn")
    assert job.status == "queued"
    store.start()
    job.begins()
    job.tell("return", 1)
    job.comes_to("completed")


def test_a_job_that_is_cancelled_in_rq_while_the_store_is_away_is_cancelled_when_it_is_back(
    jobs: Jobs, store: FaultyRedis
) -> None:
    jobs.worker().waits()
    job = jobs.enqueue(depends_on=jobs.queue.enqueue_in(timedelta(hours=1), "puppet.hello"))
    store.kill()
    job.job.cancel()
    time.sleep(2 * HEARTBEAT)
    store.start()
    job.comes_to("cancelled")


def test_a_worker_that_ends_stores_what_it_was_handed_if_it_can(jobs: Jobs, store: FaultyRedis) -> None:
    job = jobs.enqueue()
    worker = jobs.worker()
    job.begins()
    store.pause()
    job.do("emit unstored", "a")
    job.tell("return", 1)
    wait_until(lambda: job.status == "finished", 15, "RQ knows")
    worker.is_told(signal.SIGTERM)
    time.sleep(HEARTBEAT)
    store.go_on()
    worker.has_ended()
    job.comes_to("completed")
    assert job.events() == ["a", "end"]


# RQ's own Redis


def test_a_work_horse_whose_worker_gives_up_goes_on_and_ends_its_task(
    store: FaultyRedis, redis_url: Callable[[str], str], tmp_path: Path
) -> None:
    from integrations.rq_workers import Jobs

    host = Host(redis_url("newest"))
    broker = store
    jobs = Jobs(host, tmp_path, broker.url)
    try:
        job = jobs.enqueue()
        worker = jobs.worker(monitoring=1)
        job.begins()
        broker.kill()
        worker.process.wait(20)
        assert job.do("emit", "a") is None
        assert job.state == "running"
        broker.start()
        job.tell("return", 42)
        job.has_ended_once("completed")
        assert (job.events(), job.result) == (["a", "end"], 42)
    finally:
        jobs.close()
        host.close()
