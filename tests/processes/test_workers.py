"""Workers that die, are replaced, or are told to shut down: what readers in other processes see of their tasks."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from processes.client import Client, Frame, Stream, wait_until
from processes.gunicorns import Gunicorn
from processes.leases import Lease

THREADS = ("--worker-class", "gthread", "--threads", "8")
TOLERANCE = 1.0


class Following:
    """A stream read in a thread; `frames` grows as they come."""

    def __init__(self, stream: Stream) -> None:
        assert stream.status == 200
        self.frames: list[Frame] = []
        self.stream = stream
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.cut()
        self._thread.join()
        self.stream.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            for frame in self.stream:
                self.frames.append(frame)

    def of(self, type: str) -> list[Frame]:
        return [frame for frame in self.frames if frame.type == type]

    def numbers(self) -> list[int]:
        return [frame.data["number"] for frame in self.of("number")]

    def end(self, timeout: float) -> Frame:
        """The end frame, waited for."""
        ends: list[Frame] = wait_until(lambda: self.of("end"), timeout, "the stream's end")
        return ends[0]

    def closed(self, timeout: float) -> bool:
        """Whether the server closed the stream in time (s)."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


def follow(client: Client, path: str) -> Following:
    return Following(client.stream(path))


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid)


@pytest.mark.parametrize("workers", [2, 3])
def test_a_killed_workers_task_is_active_until_its_lease_is_over_and_lost_from_then_on(
    serve: Callable[..., Gunicorn], storage: str, conversation_id: str, workers: int
) -> None:
    server = serve("--workers", str(workers), *THREADS, STORAGE_URI=storage)
    client, base = server.client, server.client.conversation(conversation_id)
    started = client.post(f"/start/{quote(conversation_id)}", upto=100, then=600).json
    lease = Lease(storage, conversation_id, started["taskId"])
    with Following(client.stream_elsewhere(f"{base}/stream", started["pid"])) as follower:
        wait_until(lambda: len(follower.numbers()) == 100, 10, "all numbers")
        wait_until(lambda: lease.deadline() > lease.now() + 1000, 10, "a renewed lease")

        os.kill(started["pid"], signal.SIGKILL)
        wait_until(lambda: is_gone(started["pid"]), 5, "the worker's death")
        deadline = lease.deadline()

        seen: list[tuple[int, int, str]] = []
        while not seen or seen[-1][2] == "active":
            assert lease.now() < deadline + 5000, "still active 5 s after the deadline"
            before = lease.now()
            status = client.get(f"{base}/active-session").json["status"]
            seen.append((before, lease.now(), status))
            time.sleep(0.01)
        end = follower.end(TOLERANCE + 5)
        ended_at = lease.now() - round((time.monotonic() - end.at) * 1000)

    assert lease.deadline() == deadline
    assert len([after for _, after, _ in seen if after < deadline]) > 3
    assert all(status == "active" for _, after, status in seen if after < deadline)
    assert all(status != "active" for before, _, status in seen if before >= deadline)
    assert end.data["state"] == "lost"
    assert deadline <= ended_at <= deadline + TOLERANCE * 1000
    assert follower.numbers() == list(range(1, 101))
    assert client.get(f"{base}/task-status").json["isActive"] is False
    assert client.get(f"{base}/stream").status == 204


def test_after_a_killed_worker_the_next_task_starts_at_once(
    serve: Callable[..., Gunicorn], storage: str, conversation_id: str
) -> None:
    server = serve("--workers", "2", *THREADS, STORAGE_URI=storage)
    base = server.client.conversation(conversation_id)
    first = server.client.post(f"/start/{quote(conversation_id)}", upto=1, then=600).json
    os.kill(first["pid"], signal.SIGKILL)
    wait_until(lambda: is_gone(first["pid"]), 5, "the worker's death")

    def start() -> Any:
        try:
            return server.client.post(f"/start/{quote(conversation_id)}", upto=5).json
        except OSError:
            return None

    second = wait_until(start, 5, "an answer of the other worker")
    with follow(server.client, f"{base}/resume/{second['sessionId']}") as follower:
        assert follower.end(10).data == {
            "state": "completed",
            "errorType": None,
            "errorMessage": None,
            "taskId": second["taskId"],
        }
    assert follower.numbers() == [1, 2, 3, 4, 5]


def test_behind_round_robin_each_server_sees_and_stops_the_work_of_another(
    serve: Callable[..., Gunicorn], storage: str, conversation_id: str
) -> None:
    servers = cycle([serve("--workers", "1", *THREADS, STORAGE_URI=storage) for _ in range(3)])
    base = next(servers).client.conversation(conversation_id)
    started = next(servers).client.post(f"/start/{quote(conversation_id)}", upto=50, then=600).json

    answers = [next(servers).client.get(f"{base}/active-session") for _ in range(3)]
    assert {answer.headers["X-Process"] for answer in answers} > {str(started["pid"])}
    assert all(answer.json["sessionId"] == started["sessionId"] for answer in answers)
    assert all(answer.json["status"] == "active" for answer in answers)

    with follow(next(servers).client, f"{base}/stream") as follower:
        assert follower.stream.headers["X-Process"] != str(started["pid"])
        wait_until(lambda: len(follower.numbers()) == 50, 10, "all numbers")
        stopper = next(servers).client
        asked = time.monotonic()
        stopped = stopper.post(f"{base}/stop")
        assert stopped.status == 202
        assert stopped.headers["X-Process"] not in (str(started["pid"]), follower.stream.headers["X-Process"])
        end = follower.end(10)
    assert end.data["state"] == "cancelled"
    assert end.at - asked < TOLERANCE
    assert follower.numbers() == list(range(1, 51))
    assert all(next(servers).client.get(f"{base}/active-session").json["status"] == "idle" for _ in range(3))


@pytest.mark.parametrize("followed", [False, True], ids=["nobody-follows", "somebody-follows"])
def test_a_server_that_is_told_to_end_ends_its_tasks_as_errors_and_stores_what_they_emitted(
    serve: Callable[..., Gunicorn], storage: str, conversation_id: str, followed: bool
) -> None:
    ending = serve("--workers", "1", *THREADS, STORAGE_URI=storage)
    other = serve("--workers", "1", *THREADS, STORAGE_URI=storage)
    base = ending.client.conversation(conversation_id)
    started = ending.client.post(f"/start/{quote(conversation_id)}", upto=100_000, pause=0.001).json
    with follow(other.client, f"{base}/stream") as follower:
        wait_until(lambda: len(follower.numbers()) > 50, 10, "some numbers")
        if followed:
            with follow(ending.client, f"{base}/stream") as here:
                wait_until(lambda: len(here.numbers()) > 50, 10, "some numbers")
                ending.terminate()
                assert here.closed(10), "The stream was not closed."
            assert here.numbers() == list(range(1, len(here.numbers()) + 1))
        else:
            ending.terminate()
        end = follower.end(15)
    assert end.data == {
        "state": "error",
        "errorType": "Shutdown",
        "errorMessage": "The process that did the work was shut down.",
        "taskId": started["taskId"],
    }
    numbers = follower.numbers()
    assert numbers == list(range(1, len(numbers) + 1))
    assert end.id is not None
    assert int(end.id.partition("-")[2]) == len(numbers) + 1
    assert other.client.get(f"{base}/active-session").json["status"] == "idle"
    ending.process.wait(15)
    assert ending.process.returncode == 0, ending.log.read_text()


@pytest.mark.parametrize("store", ["memory", "redis"])
def test_under_gevent_a_task_streams_while_it_works(
    serve: Callable[..., Gunicorn], request: pytest.FixtureRequest, conversation_id: str, store: str
) -> None:
    pytest.importorskip("gevent")
    uri = "memory://" if store == "memory" else request.getfixturevalue("storage")
    server = serve("--workers", "1", "--worker-class", "gevent", STORAGE_URI=uri)
    base = server.client.conversation(conversation_id)
    server.client.post(f"/start/{quote(conversation_id)}", upto=40, pause=0.05)
    with follow(server.client, f"{base}/stream") as follower:
        wait_until(follower.numbers, 10, "a number")
        assert server.client.get(f"{base}/active-session").json["status"] == "active"
        assert follower.of("end") == []
        assert follower.end(20).data["state"] == "completed"
    assert follower.numbers() == list(range(1, 41))
    arrivals = [frame.at for frame in follower.of("number")]
    assert arrivals[-1] - arrivals[0] > 1, "The numbers came at once, not as they were emitted."
    assert server.client.get(f"{base}/active-session").json["status"] == "completed"
