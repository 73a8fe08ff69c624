"""F8, F9: work that is silent, that leaves no pause, that forks, or whose store refused for a while, is not lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.conftest import Started, hear, say
from faults.stores import FaultyRedis
from flask import Flask
from processes.client import wait_until
from servers import free_port

from flask_sessionstatus import Run, SessionStatus, StoreUnavailable
from flask_sessionstatus.models import TaskState
from flask_sessionstatus.stores import Limits, Store, store_from_uri

LEASE, HEARTBEAT = 2.0, 0.5
LOOK = 0.02

MakeApp = Callable[..., tuple[Flask, SessionStatus]]


@pytest.fixture
def store(server: FaultyRedis) -> Iterator[Store]:
    """A reader in a process that works on nothing."""
    store = store_from_uri(server.url, Limits())
    yield store
    store.close()


def state(store: Store, session_id: str, task_id: str) -> TaskState | None:
    """The state of a task; None while that cannot be known."""
    try:
        task = store.task(session_id, task_id)
    except StoreUnavailable:
        return None
    return task.state if task is not None else None


def watch(store: Store, seconds: float, *tasks: tuple[str, str]) -> set[TaskState | None]:
    """All states that the tasks are seen in for some time."""
    seen: set[TaskState | None] = set()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        seen |= {state(store, *task) for task in tasks}
        time.sleep(LOOK)
    return seen


def at_work(script: Callable[..., Started], name: str, **settings: object) -> tuple[Started, tuple[str, str]]:
    worker = script("laborer.py", name, **settings)
    session_id, task_id = hear(worker).split()
    return worker, (session_id, task_id)


def test_a_silent_worker_and_one_that_leaves_no_pause_are_not_lost(
    server: FaultyRedis, store: Store, script: Callable[..., Started]
) -> None:
    settings = {"STORAGE_URI": server.url, "LEASE": LEASE, "HEARTBEAT": HEARTBEAT}
    silent, burning = (at_work(script, name, **settings) for name in ("silent", "burning"))
    say(burning[0], f"burn {2.5 * LEASE}")
    assert watch(store, 2.5 * LEASE, silent[1], burning[1]) == {TaskState.RUNNING}
    assert hear(burning[0]).startswith("burnt")
    for worker, task in (silent, burning):
        say(worker, "end")
        assert hear(worker) == "ended"
        assert state(store, *task) is TaskState.COMPLETED


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.skipif(os.environ.get("SESSIONSTATUS_SLOW") != "1", reason="It takes a minute: SESSIONSTATUS_SLOW=1.")
def test_a_minute_of_silence_and_one_of_work_without_a_pause_are_no_loss(
    server: FaultyRedis, store: Store, script: Callable[..., Started]
) -> None:
    """With the leases and heartbeats that are set by default."""
    settings = {"STORAGE_URI": server.url, "LEASE": Limits().lease / 1000, "HEARTBEAT": Limits().heartbeat / 1000}
    silent, burning = (at_work(script, name, **settings) for name in ("silent", "burning"))
    began = time.monotonic()
    say(burning[0], "burn 65")
    leases = []
    while time.monotonic() - began < 65:
        tasks = [store.task(*task) for _, task in (silent, burning)]
        assert [task.state for task in tasks if task is not None] == [TaskState.RUNNING] * 2
        now = store.snapshot("silent").now
        leases.append(min((task.deadline or 0) - now for task in tasks if task is not None))
        time.sleep(0.1)
    print(f"{len(leases)} looks in {time.monotonic() - began:.0f} s, least left of a lease {min(leases)} ms")  # noqa: T201
    assert hear(burning[0]).startswith("burnt")
    for worker, task in (silent, burning):
        say(worker, "end")
        assert hear(worker) == "ended"
        assert state(store, *task) is TaskState.COMPLETED


def test_a_parent_and_its_child_each_beat_for_their_own_tasks(
    server: FaultyRedis, store: Store, script: Callable[..., Started]
) -> None:
    settings = {"STORAGE_URI": server.url, "LEASE": LEASE, "HEARTBEAT": HEARTBEAT}
    parent, own = at_work(script, "parent", **settings)
    say(parent, "fork")
    *child, pid = hear(parent).split()
    theirs = child[0], child[1]
    try:
        assert watch(store, 1.5 * LEASE, own, theirs) == {TaskState.RUNNING}
        parent.kill()
        parent.wait()
        wait_until(lambda: state(store, *own) is TaskState.LOST, LEASE + 0.5, "the parent's task is lost")
        assert watch(store, LEASE, theirs) == {TaskState.RUNNING}
    finally:
        os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: state(store, *theirs) is TaskState.LOST, LEASE + 0.5, "the child's task is lost")


# What a store can say instead of an answer; each is undone by the second function


def nothing_left(server: FaultyRedis) -> None:
    server.client.config_set("maxmemory", 1)


def room_again(server: FaultyRedis) -> None:
    server.client.config_set("maxmemory", 0)


def a_replica(server: FaultyRedis) -> None:
    server.client.replicaof("127.0.0.1", free_port())


def the_master_again(server: FaultyRedis) -> None:
    server.client.replicaof("NO", "ONE")


def locked(server: FaultyRedis) -> None:
    server.client.config_set("requirepass", "secret")
    server.client.client_kill_filter(_type="normal", skipme=True)


def unlocked(server: FaultyRedis) -> None:
    server.client.config_set("requirepass", "")


def dead(server: FaultyRedis) -> None:
    server.kill()


def born_again(server: FaultyRedis) -> None:
    server.start()


REFUSALS: dict[str, tuple[Callable[[FaultyRedis], None], Callable[[FaultyRedis], None]]] = {
    "out-of-memory": (nothing_left, room_again),
    "read-only": (a_replica, the_master_again),
    "password-wanted": (locked, unlocked),
    "killed-and-back-empty": (dead, born_again),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_beats_go_on_after_the_store_refused_for_longer_than_a_lease(
    refusal: str, server: FaultyRedis, store: Store, make_app: MakeApp
) -> None:
    lease, heartbeat = 1.0, 0.25
    refuse, relent = REFUSALS[refusal]
    app, sessionstatus = make_app(server.url, LEASE=lease, HEARTBEAT=heartbeat)
    with app.app_context():
        with sessionstatus.run("c1", namespace_id="somebody") as run:
            task = run.session_id, run.task_id
            refuse(server)
            threading.Event().wait(1.5 * lease)
            relent(server)
            wait_until(lambda: state(store, *task) is TaskState.RUNNING, 2 * heartbeat + 0.5, "a renewed lease")
            assert watch(store, 2 * lease, task) == {TaskState.RUNNING}
        assert state(store, *task) is TaskState.COMPLETED


def test_beats_come_through_a_crowd_of_readers(server: FaultyRedis, store: Store, make_app: MakeApp) -> None:
    """Many more threads than connections, all in the process that works."""
    app, sessionstatus = make_app(server.url, LEASE=LEASE, HEARTBEAT=HEARTBEAT)
    done = threading.Event()

    def read(run: Run) -> int:
        client, count = app.test_client(), 0
        while not done.is_set():
            assert client.get(f"/api/v1/sessions/{run.session_id}").status_code in (200, 503)
            count += 1
        return count

    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run, ThreadPoolExecutor(60) as pool:
        readers = [pool.submit(read, run) for _ in range(60)]
        seen = watch(store, 2.5 * LEASE, (run.session_id, run.task_id))
        done.set()
        assert sum(reader.result(10) for reader in readers) > 100
    assert seen == {TaskState.RUNNING}
