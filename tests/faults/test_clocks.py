"""F25: clocks of web workers that differ by an hour, and a server's clock that jumps: the same decisions, and true."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from faults.clocks import MovableClock, off_by, started_with
from faults.conftest import Started, hear, say
from faults.followers import Follower
from faults.stores import FaultyRedis
from harness import a_session, a_task, begin
from processes.client import Client, wait_until
from processes.gunicorns import Gunicorn
from servers import executable

from flask_sessionstatus.stores import Limits, Store, store_from_uri
from flask_sessionstatus.stores.base import Change

LEASE, HEARTBEAT = 2.0, 0.5
LEASE_MS = round(LEASE * 1000)
OFFSETS = ("-3600s", "+0s", "+3600s")
SETTINGS = {"LEASE": LEASE, "HEARTBEAT": HEARTBEAT}


@pytest.fixture
def store(server: FaultyRedis) -> Iterator[Store]:
    store = store_from_uri(server.url, Limits(lease=LEASE_MS))
    yield store
    store.close()


@pytest.fixture
def webs(server: FaultyRedis, script: Callable[..., Started]) -> Sequence[Client]:
    """Three web workers: one an hour behind, one right, one an hour ahead."""
    started = []
    for offset in OFFSETS:
        with started_with(off_by(offset)):
            started.append(script("web.py", STORAGE_URI=server.url, **SETTINGS))
    found = []
    for process, offset in zip(started, OFFSETS, strict=True):
        port, clock = hear(process).split()
        assert abs(float(clock) - time.time() - float(offset.rstrip("s"))) < 5
        found.append(Client(f"http://127.0.0.1:{port}"))
    return found


PATHS = ("conversations/c1/task-status", "conversations/c1/active-session")
OF_SESSIONS = ("", "/tasks", "/tasks/t1", "/tasks/t1/events")


def told(webs: Sequence[Client]) -> dict[str, Any]:
    """What every one of the web workers says, by path; they say the same."""
    said: dict[str, Any] = {}
    for path in (*PATHS, *(f"sessions/s1{each}" for each in OF_SESSIONS)):
        answers = [web.get(f"/api/v1/{path}") for web in webs]
        assert [answer.status for answer in answers] == [200] * len(webs)
        bodies = [answer.json for answer in answers]
        for body in bodies:
            if path == "sessions/s1":
                del body["lastAccessed"], body["accessCount"]
        assert bodies == [bodies[0]] * len(webs), path
        said[path] = bodies[0]
    return said


def stage(webs: Sequence[Client]) -> tuple[Any, ...]:
    said = told(webs)
    status, session, task = (said[path] for path in (*PATHS, "sessions/s1/tasks/t1"))
    assert status["estimatedCompletion"] == task["estimatedCompletion"]
    return status["isActive"], session["status"], task["state"], task["estimateBasis"]


def test_at_each_stage_three_web_workers_an_hour_apart_say_the_same(store: Store, webs: Sequence[Client]) -> None:
    for duration in (600_000, 700_000, 800_000):
        store.record_duration("generation", duration)
    job = begin(store, a_session("s1", "c1", "somebody"), a_task("t1", pending=True))
    assert stage(webs) == (True, "active", "pending", None)
    job.append(change=Change(running=True))
    assert stage(webs) == (True, "active", "running", "history")
    job.append(["a"], change=Change(current=1, total=10, remaining=900_000))
    assert stage(webs) == (True, "active", "running", "progress")

    deadline = job.task.deadline
    assert deadline is not None
    seen: list[tuple[int, int, tuple[Any, ...]]] = []
    while not seen or seen[-1][0] < deadline + 100:
        before = store.snapshot("c1").now
        try:
            said = stage(webs)
        except AssertionError:
            # The lease ran out between one answer and the next.
            assert before < deadline <= store.snapshot("c1").now
            continue
        seen.append((before, store.snapshot("c1").now, said))
    assert {said for _, after, said in seen if after < deadline} == {(True, "active", "running", "progress")}
    assert {said for before, _, said in seen if before >= deadline} == {(False, "idle", "lost", None)}

    job.beat()
    assert stage(webs) == (True, "active", "running", "progress")
    job.end(result='"done"')
    assert stage(webs) == (False, "completed", "completed", None)
    session = store.session("s1")
    assert session is not None
    assert told(webs)["sessions/s1"]["expiresAt"] == session.expires_at


def test_work_whose_clock_is_off_is_dated_by_the_stores(
    server: FaultyRedis, store: Store, webs: Sequence[Client], script: Callable[..., Started]
) -> None:
    with started_with(off_by("+3600s")):
        worker = script("laborer.py", "c1", STORAGE_URI=server.url, **SETTINGS)
    session_id, task_id = hear(worker).split()
    say(worker, "emit 3")
    hear(worker)
    say(worker, "end")
    assert hear(worker) == "ended"
    now = store.snapshot("c1").now
    bodies = [web.get(f"/api/v1/sessions/{session_id}/tasks/{task_id}").json for web in webs]
    assert bodies == [bodies[0]] * 3
    assert bodies[0]["state"] == "completed"
    for name in ("createdAt", "startedAt", "updatedAt", "finishedAt", "estimatedCompletion"):
        assert now - 60_000 < bodies[0][name] <= now


@pytest.fixture
def jumping(tmp_path: Path) -> Iterator[tuple[FaultyRedis, MovableClock]]:
    """A Redis whose clock can be moved; the allocator of Debian's own does not bear that."""
    oldest = executable("redis-6.2")
    clock = MovableClock(tmp_path / "clock")
    with started_with(clock.environment):
        server = FaultyRedis(oldest).start()
    yield server, clock
    server.remove()


def test_after_the_servers_clock_jumped_back_an_hour_the_dead_are_seen_within_a_lease_and_the_living_live(
    jumping: tuple[FaultyRedis, MovableClock], serve: Callable[..., Gunicorn], script: Callable[..., Started]
) -> None:
    server, clock = jumping
    workers = [script("laborer.py", name, STORAGE_URI=server.url, **SETTINGS) for name in ("dead", "alive")]
    web = serve("--threads", "8", STORAGE_URI=server.url, **SETTINGS).client
    dead, alive = ("/api/v1/sessions/{}/tasks/{}".format(*hear(worker).split()) for worker in workers)
    follower = Follower([web], "/api/v1/conversations/dead/stream")
    say(workers[0], "emit 1")
    hear(workers[0])
    wait_until(lambda: follower.frames, 5, "the first event")

    def state(path: str) -> str:
        found: str = web.get(path).json["state"]
        return found

    workers[0].kill()
    workers[0].wait()
    before = server.client.time()[0]  # type: ignore[index]
    clock.move("-3600s")
    jumped = time.monotonic()
    assert server.client.time()[0] < before - 3500  # type: ignore[index]

    seen: list[tuple[float, str, str, bool]] = []
    while not seen or seen[-1][0] < 2 * LEASE:
        active = web.get("/api/v1/conversations/dead/task-status").json["isActive"]
        seen.append((time.monotonic() - jumped, state(dead), state(alive), active))
    assert {alive for _, _, alive, _ in seen} == {"running"}
    lost_at = next(at for at, dead, _, _ in seen if dead == "lost")
    print(f"lost {lost_at:.2f} s after the jump")  # noqa: T201
    assert lost_at < LEASE + 0.5
    assert {(dead, active) for at, dead, _, active in seen if at > lost_at} == {("lost", False)}
    assert [end.data["state"] for end in follower.ends] == ["lost"]
    assert follower.ends[0].at - jumped < LEASE + 1
    say(workers[1], "end")
    assert hear(workers[1]) == "ended"
    assert state(alive) == "completed"
