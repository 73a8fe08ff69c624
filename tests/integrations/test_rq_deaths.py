"""The ways in which a job of RQ, its work-horse and its worker end: the task has one end each, and soon."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
import rq
from integrations.queued import HEARTBEAT, LEASE
from processes.client import wait_until
from rq.command import send_stop_job_command

if TYPE_CHECKING:
    from integrations.rq_workers import Jobs

pytest_plugins = ["integrations.rq_workers"]

AT_ONCE = LEASE

# The job


def test_a_job_that_raises_is_an_error_with_its_message(jobs: Jobs) -> None:
    job = jobs.enqueue()
    job.begins()
    job.do("emit", "a")
    job.tell("fail", "ValueError", "too\nlong")
    job.has_ended_once("error", "ValueError")
    assert (job.task.error_message, job.events(), job.status) == ("too long", ["a", "end"], "failed")


def test_a_job_that_knows_nothing_of_tasks_fails_as_an_error(jobs: Jobs) -> None:
    jobs.enqueue("fails").has_ended_once("error", "ValueError")


def test_a_job_whose_function_is_not_there_is_an_error(jobs: Jobs) -> None:
    jobs.enqueue("missing").has_ended_once("error", "ValueError")


def test_a_job_that_leaves_by_system_exit_is_an_error(jobs: Jobs) -> None:
    job = jobs.enqueue()
    job.begins()
    job.tell("fail", "SystemExit", "enough")
    job.has_ended_once("error", "SystemExit")


def test_a_job_that_takes_longer_than_it_may_is_an_error_of_its_own_type(jobs: Jobs) -> None:
    job = jobs.enqueue(job_timeout=1)
    job.begins()
    job.do("emit", "a")
    job.tell("sleep", 30)
    job.has_ended_once("error", "JobTimeoutException")
    assert job.events() == ["a", "end"]


def test_a_job_that_asks_to_be_tried_too_often_is_an_error(jobs: Jobs) -> None:
    job = jobs.enqueue("never_content")
    job.has_ended_once("error", "MaxRetriesExceeded")
    assert (job.task.attempt, job.events()) == (3, ["attempt", "attempt", "end"])


# Its callbacks


def test_a_job_whose_on_success_raises_has_failed_as_it_has_for_rq(jobs: Jobs) -> None:
    job = jobs.enqueue("hello", on_success=rq.Callback("puppet.breaks"))
    job.has_ended_once("error", "KeyError")
    assert job.status == "failed"


def test_a_job_whose_on_success_raises_is_tried_again_as_rq_does(jobs: Jobs) -> None:
    job = jobs.enqueue("hello", on_success=rq.Callback("puppet.breaks"), retry=rq.Retry(max=1))
    job.has_ended_once("error", "KeyError")
    assert job.task.attempt == 2


def test_the_error_of_a_job_is_its_own_also_when_on_failure_raises(jobs: Jobs) -> None:
    job = jobs.enqueue("fails", on_failure=rq.Callback("puppet.breaks"))
    job.has_ended_once("error", "ValueError")


def test_a_job_that_is_stopped_is_cancelled_also_when_on_stopped_raises(jobs: Jobs) -> None:
    job = jobs.enqueue(on_stopped=rq.Callback("puppet.breaks"))
    job.begins()
    send_stop_job_command(jobs.connection, job.job.id)
    job.has_ended_once("cancelled")


# The work-horse


def test_a_work_horse_that_is_killed_is_an_error_at_once(jobs: Jobs) -> None:
    job = jobs.enqueue()
    job.begins()
    job.do("emit", "a")
    job.tell("kill")
    task = job.comes_to("error", within=AT_ONCE)
    assert (task.error_type, task.error_message) == ("WorkHorseTerminated", "The work-horse was killed by signal 9.")
    job.has_ended_once("error", "WorkHorseTerminated")
    assert job.events() == ["a", "end"]


def test_a_work_horse_that_is_killed_once_rq_has_its_success_has_completed(jobs: Jobs) -> None:
    job = jobs.enqueue("deadly")
    job.has_ended_once("completed")
    assert (job.status, job.result) == ("finished", {"answer": 42})


@pytest.mark.parametrize(
    ("status", "told"), [(0, "The work-horse is gone."), (3, "The work-horse exited with status 3.")]
)
def test_a_job_that_ends_its_process_is_an_error_at_once(jobs: Jobs, status: int, told: str) -> None:
    job = jobs.enqueue()
    job.begins()
    job.tell("exit", status)
    assert job.comes_to("error", within=AT_ONCE).error_message == told
    assert (job.task.error_type, job.events()) == ("WorkHorseTerminated", ["end"])


def test_a_work_horse_that_is_killed_is_tried_again_where_the_job_may_be(jobs: Jobs) -> None:
    job = jobs.enqueue(retry=rq.Retry(max=1))
    for attempt in (1, 2):
        job.begins(attempt)
        job.do("emit", str(attempt))
        job.tell("kill")
    job.has_ended_once("error", "WorkHorseTerminated")
    assert job.events() == ["1", "attempt", "2", "end"]


def test_a_work_horse_that_was_asked_to_stop_and_is_killed_is_cancelled(jobs: Jobs) -> None:
    job = jobs.enqueue()
    job.begins()
    job.stop()
    assert job.do("wait for stop") is True
    job.tell("kill")
    job.has_ended_once("cancelled")


def test_a_work_horse_that_holds_the_gil_for_two_leases_is_alive(jobs: Jobs) -> None:
    job = jobs.enqueue()
    job.begins()
    job.tell("hold the gil", int(2 * LEASE))
    until = time.monotonic() + 2 * LEASE - HEARTBEAT
    while time.monotonic() < until:
        assert job.state == "running"
        time.sleep(0.05)
    job.answer()
    job.tell("return", 1)
    job.has_ended_once("completed")


# The worker


def test_a_worker_that_is_killed_with_its_work_horse_is_lost_at_the_leases_end_and_not_before(fresh: Jobs) -> None:
    job = fresh.enqueue()
    worker = fresh.worker()
    job.begins()
    job.do("emit", "a")
    worker.kill_all()
    killed = time.monotonic()
    assert job.state == "running"
    job.comes_to("lost")
    assert LEASE - HEARTBEAT - 0.3 <= time.monotonic() - killed <= LEASE + 0.5
    assert job.events() == ["a"]

    fresh.queue.push_job_id(job.job.id)  # as RQ does when it tries an abandoned job again
    fresh.worker()
    job.begins(attempt=2)
    job.tell("return", 1)
    job.has_ended_once("completed")
    assert job.events() == ["a", "attempt", "end"]


def test_a_work_horse_whose_worker_is_killed_goes_on_and_ends_its_task(fresh: Jobs) -> None:
    job = fresh.enqueue()
    worker = fresh.worker()
    job.begins()
    os.kill(worker.process.pid, signal.SIGKILL)
    worker.process.wait(5)
    time.sleep(LEASE)
    assert job.state == "running"
    job.do("emit", "a")
    job.tell("return", 1)
    job.has_ended_once("completed")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
def test_a_worker_that_is_told_to_end_ends_its_job_first(fresh: Jobs, how: str) -> None:
    job, next_one = fresh.enqueue(), fresh.enqueue()
    worker = fresh.worker()
    job.begins()
    worker.is_told(signal.Signals[how])
    wait_until(lambda: "warm shut down requested" in worker.log.read_text(), 5, "the worker knows")
    job.do("emit", "a")
    assert job.state == "running"
    job.tell("return", 1)
    worker.has_ended()
    job.has_ended_once("completed")
    assert next_one.state == "pending"


def test_a_worker_that_is_told_twice_kills_its_work_horse_and_the_task_is_an_error_at_once(fresh: Jobs) -> None:
    job = fresh.enqueue()
    worker = fresh.worker()
    job.begins()
    worker.is_told(signal.SIGTERM)
    wait_until(lambda: "warm shut down requested" in worker.log.read_text(), 5, "the worker knows")
    time.sleep(1)  # RQ takes two signals within a second for one
    worker.is_told(signal.SIGTERM)
    job.comes_to("error", within=AT_ONCE)
    worker.has_ended()
    assert (job.task.error_type, job.events()) == ("WorkHorseTerminated", ["end"])


def test_a_worker_that_is_told_to_end_while_it_waits_for_a_task_puts_the_job_back(fresh: Jobs) -> None:
    job = fresh.enqueue()
    first = fresh.worker()
    job.begins()
    fresh.queue.push_job_id(job.job.id)  # a message that comes twice
    second = fresh.worker()
    wait_until(lambda: f"Job {job.job.id} waits" in second.log.read_text(), 15, "it waits for the first")
    second.is_told(signal.SIGTERM)
    second.has_ended()
    assert fresh.queue.job_ids == [job.job.id]
    job.tell("return", 1)
    job.comes_to("completed")
    wait_until(lambda: fresh.queue.count == 0, 5, "it was dropped")
    first.is_told(signal.SIGTERM)
    first.has_ended()
    job.has_ended_once("completed")


# A worker without work-horses


def test_a_simple_worker_tells_of_each_end(fresh: Jobs) -> None:
    done, failed, late, gone = (
        fresh.enqueue(),
        fresh.enqueue(retry=rq.Retry(max=1)),
        fresh.enqueue(job_timeout=1),
        fresh.enqueue(),
    )
    worker = fresh.worker("SimpleWorker")
    done.begins()
    done.do("emit", "a")
    done.tell("return", "done")
    done.has_ended_once("completed")
    assert (done.result, done.events()) == ("done", ["a", "end"])
    failed.begins(attempt=1)
    failed.tell("fail", "ValueError", "no")
    late.begins()
    late.tell("sleep", 30)
    late.has_ended_once("error", "JobTimeoutException")
    gone.begins()
    gone.tell("fail", "SystemExit", "enough")
    gone.has_ended_once("error", "SystemExit")
    failed.begins(attempt=2)
    failed.tell("fail", "ValueError", "no")
    failed.has_ended_once("error", "ValueError")
    worker.is_told(signal.SIGTERM)
    worker.has_ended()


def test_a_job_of_a_simple_worker_hears_of_stops_and_of_stop_job(fresh: Jobs) -> None:
    stopped, told = fresh.enqueue(), fresh.enqueue()
    fresh.worker("SimpleWorker")
    stopped.begins()
    stopped.stop()
    assert stopped.do("wait for stop") is True
    stopped.tell("check")
    stopped.has_ended_once("cancelled")
    told.begins()
    send_stop_job_command(fresh.connection, told.job.id)
    assert told.do("wait for stop") is True
    told.tell("check")
    told.has_ended_once("cancelled")
    assert (stopped.status, told.status) == ("stopped", "stopped")


def test_a_simple_worker_that_is_killed_is_lost_at_the_leases_end(fresh: Jobs) -> None:
    job = fresh.enqueue()
    fresh.worker("SimpleWorker")
    job.begins()
    job.tell("kill")
    job.comes_to("lost", within=LEASE + 1)
