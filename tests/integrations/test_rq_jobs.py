"""Jobs of RQ as tasks: from enqueue to end, with retries and stops, in real workers."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import rq
from integrations.queued import Host, a_name
from processes.client import wait_until
from rq.command import send_stop_job_command
from rq.job import Job
from rq.registry import ScheduledJobRegistry

from flask_sessionstatus import AlreadyStarted

if TYPE_CHECKING:
    from integrations.rq_workers import Jobs

pytest_plugins = ["integrations.rq_workers"]

# Life


def test_a_job_is_pending_then_running_and_what_it_returns_is_its_result(fresh: Jobs) -> None:
    job = fresh.enqueue(tracked={"type": "answer", "session_id": "s 1"})
    task = job.task
    assert (task.state, task.type, task.session_id, task.attempt) == ("pending", "answer", "s 1", 1)
    active = fresh.host.get(f"/conversations/{job.ref.conversation_id}/active-session").json
    assert (active["status"], active["sessionId"]) == ("active", "s 1")
    fresh.worker()
    job.begins()
    assert (job.state, job.status) == ("running", "started")
    job.do("emit", "a")
    job.do("progress", 1, 4)
    wait_until(lambda: job.task.progress.total == 4, 5, "progress")
    job.tell("return", {"answer": 42})
    job.has_ended_once("completed")
    assert (job.events(), job.result, job.status) == (["a", "end"], {"answer": 42}, "finished")


def test_a_job_that_knows_nothing_of_tasks_is_one_all_the_same(jobs: Jobs) -> None:
    job = jobs.enqueue("hello")
    job.has_ended_once("completed")
    assert job.result == "hello"


def test_a_job_that_is_not_tracked_is_run_as_ever(jobs: Jobs) -> None:
    job = jobs.queue.enqueue("puppet.hello")
    wait_until(lambda: job.is_finished, 15, "its end")
    assert job.return_value() == "hello"


def test_a_result_that_is_no_json_is_not_kept(jobs: Jobs) -> None:
    job = jobs.enqueue("strange")
    job.has_ended_once("completed")
    assert not job.task.result_available
    assert job.job.return_value() == {1, 2}


def test_a_result_that_the_job_keeps_itself_goes_before_what_it_returns(jobs: Jobs) -> None:
    job = jobs.enqueue()
    job.begins()
    job.do("result", "kept")
    job.tell("return", "returned")
    job.has_ended_once("completed")
    assert job.result == "kept"


@pytest.mark.parametrize("result_ttl", [0, 1])
def test_a_result_outlives_that_of_rq(jobs: Jobs, result_ttl: int) -> None:
    job = jobs.enqueue("hello", result_ttl=result_ttl)
    job.has_ended_once("completed")
    wait_until(lambda: job.status is None, 5, "the job is gone")
    assert (job.state, job.result) == ("completed", "hello")


def test_a_job_that_replaces_another_begins_once_that_has_stopped(fresh: Jobs) -> None:
    first = fresh.enqueue()
    fresh.worker()
    first.begins()
    second = fresh.enqueue(tracked={"conversation_id": first.ref.conversation_id, "if_running": "replace"})
    fresh.worker()
    wait_until(lambda: second.task.deadline < first.task.deadline + 60_000, 15, "it is claimed, and waits")
    assert first.do("wait for stop") is True
    assert second.state == "pending"
    first.tell("check")
    second.begins()
    second.tell("return", 1)
    second.has_ended_once("completed")
    first.has_ended_once("cancelled")


def test_a_used_idempotency_key_does_no_work_twice(jobs: Jobs) -> None:
    conversation_id = a_name()
    first, again = (jobs.meta(conversation_id, idempotency_key="april") for _ in range(2))
    assert first["sessionstatus"]["task_id"] == again["sessionstatus"]["task_id"]
    done, double = (jobs.queue.enqueue("puppet.hello", meta=meta) for meta in (first, again))
    wait_until(lambda: done.is_finished and double.is_canceled, 15, "one is done, the other dropped")
    with pytest.raises(AlreadyStarted):
        jobs.meta(conversation_id, idempotency_key="april")


def test_a_job_that_rq_repeats_is_a_new_task_each_time(jobs: Jobs) -> None:
    job = jobs.enqueue("hello", tracked={"type": "report"}, repeat=rq.Repeat(times=2))
    tasks = jobs.host.state.store.tasks
    wait_until(
        lambda: [task.state.value for task in tasks(job.ref.session_id, 10)] == ["completed"] * 3, 15, "three tasks"
    )
    assert {task.type for task in tasks(job.ref.session_id, 10)} == {"report"}


@pytest.mark.parametrize(
    ("ticket", "error"), [(None, "InvalidValue"), ("a task that never was", "NotFound"), ('{"v": 1}', "InvalidValue")]
)
def test_a_job_whose_ticket_is_no_good_fails_and_harms_no_worker(jobs: Jobs, ticket: str | None, error: str) -> None:
    job = jobs.queue.enqueue("puppet.hello", meta={"sessionstatus": {"ticket": ticket}})
    wait_until(lambda: job.is_failed, 15, "its failure")
    assert error in job.latest_result().exc_string


# Retries


def test_a_retry_is_an_attempt_of_the_same_task_and_its_followers_are_told(jobs: Jobs) -> None:
    job = jobs.enqueue(retry=rq.Retry(max=2))
    job.begins(attempt=1)
    job.do("emit", "a")
    job.tell("fail", "ValueError", "no")
    job.begins(attempt=2)
    job.do("emit", "b")
    job.tell("return", "done")
    job.has_ended_once("completed")
    assert job.events() == ["a", "attempt", "b", "end"]
    assert [each.split()[0] for each in job.states()] == ["running", "pending", "running", "completed"]


def test_a_retry_that_waits_is_pending(jobs: Jobs) -> None:
    job = jobs.enqueue(retry=rq.Retry(max=1, interval=600))
    job.begins()
    job.tell("fail", "ValueError", "no")
    task = job.comes_to("pending")
    assert (task.attempt, job.status) == (2, "scheduled")
    ScheduledJobRegistry(queue=jobs.queue).schedule(job.job, datetime.now(timezone.utc))
    job.begins(attempt=2)
    job.tell("return", 1)
    job.has_ended_once("completed")


def test_the_last_attempt_that_fails_ends_the_task(jobs: Jobs) -> None:
    job = jobs.enqueue(retry=rq.Retry(max=1))
    for attempt in (1, 2):
        job.begins(attempt)
        job.tell("fail", "ValueError", "no")
    job.has_ended_once("error", "ValueError")
    assert job.task.attempt == 2


def test_a_failed_job_that_is_requeued_gets_a_new_attempt(jobs: Jobs) -> None:
    job = jobs.enqueue()
    job.begins()
    job.tell("fail", "ValueError", "no")
    job.has_ended_once("error", "ValueError")
    job.job.requeue()
    job.begins(attempt=2)
    job.tell("return", 1)
    job.comes_to("completed")


# Stops


def test_a_job_that_is_stopped_while_it_waits_is_never_run(jobs: Jobs) -> None:
    blocker, job = jobs.enqueue(), jobs.enqueue("hello")
    blocker.begins()
    job.stop()
    assert job.state == "cancelled"
    blocker.tell("return", 1)
    job.has_ended_once("cancelled")
    assert (job.status, job.result) == ("canceled", None)


def test_a_job_hears_of_a_stop_and_ends_when_it_looks(jobs: Jobs) -> None:
    job = jobs.enqueue(retry=rq.Retry(max=3))
    job.begins()
    job.stop()
    assert job.do("wait for stop") is True
    assert job.state == "running"
    job.tell("check")
    job.has_ended_once("cancelled")
    assert job.status == "stopped"


def test_a_job_that_is_stopped_and_completes_has_completed(jobs: Jobs) -> None:
    job = jobs.enqueue()
    job.begins()
    job.stop()
    job.tell("return", 1)
    job.has_ended_once("completed")


def test_a_job_may_be_killed_when_it_does_not_stop_by_itself(jobs: Jobs) -> None:
    job = jobs.enqueue(tracked={"terminate_after": 0.3})
    job.begins()
    job.do("emit", "a")
    job.stop()
    job.has_ended_once("cancelled")
    assert (job.status, job.events()) == ("stopped", ["a", "end"])


def test_stop_job_of_rq_is_a_stop(jobs: Jobs) -> None:
    job = jobs.enqueue(retry=rq.Retry(max=3))
    job.begins()
    job.do("emit", "a")
    send_stop_job_command(jobs.connection, job.job.id)
    job.has_ended_once("cancelled")
    assert (job.status, job.events()) == ("stopped", ["a", "end"])


def test_a_job_that_is_cancelled_in_rq_while_it_waits_is_cancelled_within_a_heartbeat(jobs: Jobs) -> None:
    blocker, job = jobs.enqueue(), jobs.enqueue()
    blocker.begins()
    Job.fetch(job.job.id, connection=jobs.connection).cancel()
    job.comes_to("cancelled", within=3)
    blocker.tell("return", 1)
    job.has_ended_once("cancelled")


def test_a_job_that_was_cancelled_in_rq_when_there_was_no_worker_is_cancelled_by_the_next_one(fresh: Jobs) -> None:
    job = fresh.enqueue()
    job.job.cancel()
    fresh.worker()
    job.has_ended_once("cancelled")


def test_a_job_that_is_cancelled_in_rq_while_it_runs_is_asked_to_stop(jobs: Jobs) -> None:
    job = jobs.enqueue()
    job.begins()
    job.job.cancel()
    assert job.do("wait for stop") is True
    job.tell("check")
    job.has_ended_once("cancelled")


def test_a_job_that_is_deleted_in_rq_while_it_waits_is_lost_at_its_maximum_age(web: Host, tmp_path: Path) -> None:
    from integrations.rq_workers import Jobs

    impatient = Host(web.storage, MAX_PENDING_AGE=1)
    jobs = Jobs(impatient, tmp_path)
    try:
        job = jobs.enqueue()
        job.job.delete()
        assert job.state == "pending"
        job.comes_to("lost", within=2)
        with impatient.app.app_context():
            impatient.extension.cancel(job.task)
        assert job.state == "cancelled"
    finally:
        jobs.close()
        impatient.close()


def test_a_job_whose_session_was_deleted_while_it_waited_is_never_run(jobs: Jobs) -> None:
    blocker, job = jobs.enqueue(), jobs.enqueue("hello")
    blocker.begins()
    assert jobs.host.state.store.delete_session(job.ref.session_id)
    blocker.tell("return", 1)
    wait_until(lambda: job.status == "canceled", 15, "the job is dropped")
