"""A queue between processes: the web enqueues, workers take up, die, and are followed by others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from flask import Flask
from processes.client import wait_until
from processes.conftest import HEARTBEAT, LEASE
from processes.gunicorns import Gunicorn

from flask_sessionstatus import SessionStatus, TaskState

Serve = Callable[..., Gunicorn]


class Taker:
    """A worker process: it is given a ticket and says what came of it."""

    def __init__(self, storage: str) -> None:
        settings = {"STORAGE_URI": storage, "LEASE": LEASE, "HEARTBEAT": HEARTBEAT}
        self.process = subprocess.Popen(
            [sys.executable, "taker.py"],
            cwd=Path(__file__).parent,
            env={**os.environ, **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings.items()}},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def remove(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def taker(storage: str) -> Iterator[Callable[[], Taker]]:
    """Starts a worker process."""
    started: list[Taker] = []

    def start() -> Taker:
        started.append(Taker(storage))
        return started[-1]

    yield start
    for each in started:
        each.remove()


def test_a_message_of_a_killed_worker_is_taken_up_by_another_and_its_followers_see_both_attempts(
    serve: Serve, storage: str, conversation_id: str, taker: Callable[[], Taker]
) -> None:
    client = serve("--worker-class", "gthread", "--threads", "4", STORAGE_URI=storage).client
    enqueued = client.post(f"/enqueue/{quote(conversation_id)}").json
    base = client.conversation(conversation_id)
    path = f"{base}/resume/{enqueued['sessionId']}"
    ticket = enqueued["ticket"]
    assert client.get(f"{base}/task-status").json["isActive"] is True

    first, second = taker(), taker()
    assert first.ask(ticket) == "1"
    assert [first.ask("more") for _ in range(3)] == ["1", "2", "3"]
    assert second.ask(ticket) == "TaskRunning"
    with client.stream(path) as stream:
        first.process.kill()
        seen = [frame for frame in stream if frame.type != "status"]
    assert [frame.data.get("number") or frame.data["state"] for frame in seen] == [1, 2, 3, "lost"]

    assert second.ask(ticket) == "2"
    assert second.ask("more") == "1"
    with client.stream(path, {"Last-Event-ID": str(seen[-1].id)}) as stream:
        assert second.ask("end") == "done"
        again = [frame for frame in stream if frame.type != "status"]
    assert [(frame.type, frame.data.get("attempt"), frame.data.get("state")) for frame in again] == [
        ("attempt", 2, None),
        ("number", None, None),
        ("end", None, "completed"),
    ]
    assert second.ask(ticket) == "AlreadyStarted"


def test_a_message_outlives_a_store_that_lost_everything(
    serve: Serve, storage: str, conversation_id: str, taker: Callable[[], Taker]
) -> None:
    client = serve("--worker-class", "gthread", "--threads", "4", STORAGE_URI=storage).client
    enqueued = client.post(f"/enqueue/{quote(conversation_id)}").json
    with redis.Redis.from_url(storage) as server:
        server.flushall()
    worker = taker()
    assert worker.ask(enqueued["ticket"]) == "1"
    task = f"/api/v1/sessions/{enqueued['sessionId']}/tasks/{enqueued['taskId']}"
    assert client.get(task).json["state"] == "running"
    assert worker.ask("end") == "done"
    assert wait_until(lambda: client.get(task).json["state"] == "completed", 5, "the end")


def test_a_task_that_is_stopped_while_it_waits_is_not_begun_in_any_process(
    serve: Serve, storage: str, conversation_id: str, taker: Callable[[], Taker]
) -> None:
    client = serve("--worker-class", "gthread", "--threads", "4", STORAGE_URI=storage).client
    enqueued = client.post(f"/enqueue/{quote(conversation_id)}").json
    assert client.post(f"{client.conversation(conversation_id)}/stop").json["state"] == "cancelled"
    assert taker().ask(enqueued["ticket"]) == "Cancelled"


def test_a_parent_keeps_the_task_of_a_child_that_says_nothing_and_ends_it_when_it_was_killed(
    serve: Serve, storage: str, conversation_id: str, taker: Callable[[], Taker]
) -> None:
    client = serve("--worker-class", "gthread", "--threads", "4", STORAGE_URI=storage).client
    enqueued = client.post(f"/enqueue/{quote(conversation_id)}").json
    settings = {"STORAGE_URI": storage, "LEASE": LEASE, "HEARTBEAT": HEARTBEAT}
    app = Flask("parent")
    app.config.update({f"SESSIONSTATUS_{name}": value for name, value in settings.items()})
    sessionstatus = SessionStatus(app, identify=lambda: None)
    child = taker()
    with app.app_context():
        watch = sessionstatus.work(enqueued["ticket"], worker="parent and child").watch()
        assert child.ask(f"{enqueued['ticket']}\tparent and child") == "1"
        assert child.ask("more") == "1"
        child.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        task = f"/api/v1/sessions/{enqueued['sessionId']}/tasks/{enqueued['taskId']}"
        while time.monotonic() - began < 2 * LEASE:
            assert client.get(task).json["state"] == "running"
            time.sleep(HEARTBEAT)
        with client.stream(f"{client.conversation(conversation_id)}/resume/{enqueued['sessionId']}") as stream:
            child.process.kill()
            watch.end(TaskState.ERROR, "WorkerLost", "It was killed.")
            seen = [frame for frame in stream if frame.type != "status"]
        sessionstatus.shutdown()
    assert [(frame.type, frame.data.get("errorType")) for frame in seen] == [("number", None), ("end", "WorkerLost")]
