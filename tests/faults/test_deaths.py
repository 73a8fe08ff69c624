"""F7, F26: a worker that is killed, or held and let go on: what is said of its task is true, by every route."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from faults.conftest import Started, hear, say
from faults.followers import Follower
from faults.stores import FaultyRedis
from harness import Job, a_session, a_task, begin
from processes.client import Client, wait_until
from processes.gunicorns import Gunicorn
from processes.leases import Lease

from flask_sessionstatus.models import TaskState
from flask_sessionstatus.stores import Limits, Store, store_from_uri

LEASE, HEARTBEAT = 2.0, 0.5
LEASE_MS = round(LEASE * 1000)
TOLERANCE = 1.0
NUMBERS = 10


@dataclass
class Scene:
    """One process that works, one that serves, and one that follows."""

    worker: Started
    web: Client
    lease: Lease
    conversation_id: str
    session_id: str
    task_id: str
    follower: Follower = field(init=False)

    def __post_init__(self) -> None:
        self.follower = self.follow()

    @property
    def task_path(self) -> str:
        return f"/api/v1/sessions/{self.session_id}/tasks/{self.task_id}"

    @property
    def path(self) -> str:
        return f"{self.web.conversation(self.conversation_id)}/resume/{self.session_id}"

    def follow(self) -> Follower:
        return Follower([self.web], self.path)

    def task(self) -> Any:
        return self.web.get(self.task_path).json

    def seen(self) -> tuple[bool, str, str]:
        """What three routes say."""
        base = self.web.conversation(self.conversation_id)
        status, session = (self.web.get(f"{base}/{name}").json for name in ("task-status", "active-session"))
        assert status["sessionId"] == session["sessionId"] == self.session_id
        return status["isActive"], session["status"], self.task()["state"]

    def events(self, after: str | None = None) -> list[Any]:
        """The events after a cursor, as pages."""
        page = self.web.get(f"{self.task_path}/events?cursor={after or '0-0'}").json
        return [(event["type"], event["data"].get("number", event["data"].get("state"))) for event in page["events"]]

    def resumed(self, after: str | None) -> int:
        """The status of a stream that a client comes back for."""
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        with self.web.stream(self.path, headers) as stream:
            return stream.status


@pytest.fixture
def scene(
    server: FaultyRedis, serve: Callable[..., Gunicorn], script: Callable[..., Started], conversation_id: str
) -> Iterator[Scene]:
    settings = {"STORAGE_URI": server.url, "LEASE": LEASE, "HEARTBEAT": HEARTBEAT}
    conversation_id = conversation_id.replace(" ", "-")
    worker = script("laborer.py", conversation_id, **settings)
    web = serve("--workers", "1", "--threads", "8", **settings).client
    session_id, task_id = hear(worker).split()
    scene = Scene(worker, web, Lease(server.url, conversation_id, task_id), conversation_id, session_id, task_id)
    say(worker, f"emit {NUMBERS}")
    assert hear(worker) == "0 stopped"
    wait_until(lambda: len(scene.follower.numbers) == NUMBERS, 5, "the numbers")
    yield scene
    scene.follower.stop()


def test_a_killed_workers_task_is_active_up_to_its_deadline_and_lost_from_then_on(scene: Scene) -> None:
    """The one process that is left works on nothing: it serves."""
    wait_until(lambda: scene.lease.deadline() > scene.lease.now() + LEASE_MS / 2, 5, "a renewed lease")
    scene.worker.kill()
    scene.worker.wait()
    deadline = scene.lease.deadline()

    seen: list[tuple[int, int, tuple[bool, str, str]]] = []
    while not seen or seen[-1][0] < deadline + 200:
        before = scene.lease.now()
        said = scene.seen()
        seen.append((before, scene.lease.now(), said))
    ends = wait_until(lambda: scene.follower.ends, TOLERANCE + 1, "the stream's end")
    ended_at = scene.lease.now() - round((time.monotonic() - ends[0].at) * 1000)

    assert scene.lease.deadline() == deadline
    alive = [said for _, after, said in seen if after < deadline]
    over = [said for before, _, said in seen if before >= deadline]
    assert len(alive) > 10
    assert set(alive) == {(True, "active", "running")}
    assert set(over) == {(False, "idle", "lost")}
    assert deadline <= ended_at <= deadline + TOLERANCE * 1000
    assert scene.task()["finishedAt"] == deadline
    assert (ends[0].data["state"], ends[0].id) == ("lost", scene.follower.frames[-1].id)
    assert scene.follower.numbers == list(range(NUMBERS))
    assert scene.resumed(ends[0].id) == 204


def hold_for_two_leases(scene: Scene) -> str | None:
    """SIGSTOP; the task is lost meanwhile. Returns the cursor with which its stream ended."""
    scene.worker.send_signal(signal.SIGSTOP)
    deadline = scene.lease.deadline()
    ends = wait_until(lambda: scene.follower.ends, LEASE + TOLERANCE, "the stream's end")
    wait_until(lambda: scene.lease.now() > deadline + LEASE_MS, 2 * LEASE + 1, "two leases")
    assert scene.seen() == (False, "idle", "lost")
    assert ends[0].data["state"] == "lost"
    assert scene.resumed(ends[0].id) == 204
    return str(ends[0].id)


def test_a_worker_that_was_held_comes_back_and_completes_its_task(scene: Scene) -> None:
    left_at = hold_for_two_leases(scene)
    went_on_at = scene.lease.now()
    scene.worker.send_signal(signal.SIGCONT)
    wait_until(lambda: scene.seen() == (True, "active", "running"), 2 * HEARTBEAT + 1, "a running task")
    assert scene.task()["attempt"] == 1
    again = scene.follow()
    say(scene.worker, "emit 5")
    assert hear(scene.worker) == "0 stopped"
    say(scene.worker, "end")
    assert hear(scene.worker) == "ended"
    again.join(5)
    assert again.numbers == list(range(NUMBERS + 5))
    assert again.gaps == []
    assert [end.data["state"] for end in again.ends] == ["completed"]
    assert scene.events(left_at) == [*(("number", NUMBERS + n) for n in range(5)), ("end", "completed")]
    assert scene.seen() == (False, "completed", "completed")
    assert scene.task()["finishedAt"] >= went_on_at


def test_a_worker_that_ends_its_task_as_soon_as_it_goes_on_has_completed_it(scene: Scene) -> None:
    say(scene.worker, f"burn {LEASE / 2}")
    say(scene.worker, "end")
    hold_for_two_leases(scene)
    scene.worker.send_signal(signal.SIGCONT)
    wait_until(lambda: scene.seen() == (False, "completed", "completed"), LEASE + 1, "the completion")
    assert scene.events()[NUMBERS:] == [("end", "completed")]


@pytest.fixture
def store(server: FaultyRedis) -> Iterator[Store]:
    store = store_from_uri(server.url, Limits(lease=LEASE_MS))
    yield store
    store.close()


def retried(scene: Scene, store: Store) -> Job:
    """The next attempt, begun by somebody else, with an event."""
    session = a_session(scene.session_id, scene.conversation_id, "somebody")
    job = begin(store, session, a_task(scene.task_id, attempt=2))
    job.append([("number", '{"number":100}')])
    return job


@pytest.mark.parametrize("ended", [True, False], ids=["has-ended", "runs"])
def test_a_newer_attempts_result_stands_and_the_older_one_is_fenced_out(
    scene: Scene, store: Store, ended: bool
) -> None:
    say(scene.worker, "emit 0")
    assert hear(scene.worker) == "0 stopped"
    hold_for_two_leases(scene)
    newer = retried(scene, store)
    if ended:
        newer.end(result='"newer"')
    scene.worker.send_signal(signal.SIGCONT)
    say(scene.worker, "emit 5")
    hear(scene.worker)

    def stopped() -> bool:
        say(scene.worker, "emit 1")
        return hear(scene.worker) == "1 stopped"

    wait_until(stopped, 2 * HEARTBEAT + 1, "the older attempt hears that it is fenced out")
    say(scene.worker, "end")
    assert hear(scene.worker) == "ended"
    if not ended:
        assert scene.seen() == (True, "active", "running")
        newer.end(result='"newer"')
    assert scene.seen() == (False, "completed", "completed")
    assert scene.task()["attempt"] == 2
    assert scene.web.get(f"{scene.task_path}/result").json == "newer"
    expected = [*(("number", n) for n in range(NUMBERS)), ("attempt", None), ("number", 100), ("end", "completed")]
    assert scene.events() == expected
    assert newer.task.state is TaskState.COMPLETED
