"""Work in a queue that nobody takes up: every route says pending, since when, and lost at its maximum age."""

from __future__ import annotations

import pytest
from harness import START
from hosts import Host, MakeHost, frames

from flask_sessionstatus.stores.base import Limits

AGE = 3600
TTL = Limits().session_ttl


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    return make_host(max_pending_age=AGE)


def test_it_is_pending_and_active_up_to_its_maximum_age_and_then_lost(host: Host) -> None:
    assert TTL < AGE * 1000
    host.begin(pending=True, leased=False)

    def seen() -> tuple[object, ...]:
        status = host.get("/conversations/c1/task-status").json
        session = host.get("/conversations/c1/active-session").json
        task = host.get("/sessions/s1/tasks/t1").json
        (listed,) = host.get("/sessions/s1/tasks").json or ()
        (summary,) = host.get("/sessions").json or ()
        whole = host.get("/sessions/s1").json
        assert status
        assert session
        assert task
        assert whole
        assert listed == task == whole["latestTask"]
        assert session["status"] == summary["status"] == whole["status"]
        assert (task["createdAt"], task["startedAt"], session["lastActivity"]) == (START, None, START)
        assert status["estimatedCompletion"] is task["estimatedCompletion"] is None
        return task["state"], status["isActive"], session["status"], whole["pendingTasksCount"], task["finishedAt"]

    for age in (0, TTL, AGE * 1000 - 1):
        host.clock.move(START + age - host.clock.now)
        assert seen() == ("pending", True, "active", 1, None)
    host.clock.move(1)
    assert seen() == ("lost", False, "idle", 0, START + AGE * 1000)
    assert host.get("/conversations/c1/stream").status_code == 204


def test_its_stream_ends_at_its_maximum_age(host: Host) -> None:
    host.begin(pending=True, leased=False)
    host.clock.move(AGE * 1000)
    stream = host.get("/conversations/c1/resume/s1", headers={"Accept": "text/event-stream"})
    (end,) = frames(stream.data)
    assert (end["event"], end["data"]["state"]) == ("end", "lost")


def test_it_is_stopped_at_once(host: Host) -> None:
    host.begin(pending=True, leased=False)
    host.clock.move(TTL)
    stopped = host.post("/conversations/c1/stop")
    assert stopped.status_code == 202
    assert stopped.json is not None
    assert (stopped.json["state"], stopped.json["cancelRequestedAt"]) == ("cancelled", START + TTL)
    assert host.post("/conversations/c1/stop").status_code == 404


def test_who_takes_it_up_late_has_it_run(host: Host) -> None:
    job = host.begin(pending=True, leased=False)
    host.clock.move(AGE * 1000)
    job.append(["a"])
    host.clock.move(10)
    job.end()
    assert host.get("/conversations/c1/active-session").json["status"] == "completed"  # type: ignore[index]
    task = host.get("/sessions/s1/tasks/t1").json
    assert task is not None
    assert (task["state"], task["finishedAt"]) == ("completed", START + AGE * 1000 + 10)
