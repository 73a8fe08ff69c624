"""A store that was away for longer than a lease: readers say so, and call nothing lost or unknown before its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from faults.followers import Follower
from faults.stores import Background, FaultyRedis
from flask import Flask
from processes.client import Client, wait_until
from processes.gunicorns import Server
from servers import Proxy

from flask_sessionstatus import AlreadyStarted, SessionStatus, SessionStatusError, StoreUnavailable, TaskRunning

LEASE, HEARTBEAT = 2.0, 0.5
TASKS = 4
SETTINGS = {"LEASE": LEASE, "HEARTBEAT": HEARTBEAT}


@pytest.fixture(params=[False, True], ids=["back-empty", "back-with-its-data"])
def either(request: pytest.FixtureRequest) -> Iterator[FaultyRedis]:
    server = FaultyRedis(persistent=request.param).start()
    yield server
    server.remove()


def unknown(client: Client) -> list[int]:
    paths = ("sessions/nobody", "conversations/nobody/active-session", "conversations/nobody/task-status")
    return [client.get(f"/api/v1/{path}").status for path in paths]


@pytest.mark.slow
def test_after_an_outage_longer_than_a_lease_nothing_is_lost_or_unknown_and_every_end_arrives(
    either: FaultyRedis,
    make_app: Callable[..., tuple[Flask, SessionStatus]],
    serve: Callable[..., Server],
) -> None:
    asked, idle = (serve("--threads", "16", STORAGE_URI=either.url, **SETTINGS).client for _ in range(2))
    app, sessionstatus = make_app(either.url, **SETTINGS)
    with app.app_context(), ExitStack() as stack:
        runs = [stack.enter_context(sessionstatus.run(f"c{n}", namespace_id="somebody")) for n in range(TASKS)]
        followers = [Follower([asked], f"/api/v1/conversations/c{n}/stream") for n in range(TASKS)]
        for number, run in enumerate(runs):
            run.emit("number", {"number": number})
        for client in (asked, idle):
            assert unknown(client) == [404] * 3
        wait_until(lambda: all(follower.frames for follower in followers), 5, "the followers")

        either.kill()
        away = time.monotonic()
        said = asked.get("/api/v1/conversations/c0/active-session")
        assert (said.status, int(said.headers["Retry-After"]) >= 1) == (503, True)
        for path in ("conversations/c0/stream", f"conversations/c0/resume/{runs[0].session_id}"):
            said = asked.get(f"/api/v1/{path}", Accept="text/event-stream")
            assert (said.status, said.body) == (200, b"retry: 1000\n")
        for number, run in enumerate(runs):
            run.emit("number", {"number": number + 1})
        threading.Event().wait(LEASE + 0.5 - (time.monotonic() - away))
        either.start()

        back = time.monotonic()
        first: dict[Client, list[int]] = {client: unknown(client) for client in (asked, idle)}
        assert time.monotonic() - back < 2 * HEARTBEAT, "too slow here to tell"
        assert first == {asked: [503] * 3, idle: [503] * 3}
        while time.monotonic() - back < 2 * HEARTBEAT + 0.5:
            for n, run in enumerate(runs):
                for client in (asked, idle):
                    status = client.get(f"/api/v1/conversations/c{n}/task-status")
                    assert status.status in (200, 503)
                    assert status.status == 503 or status.json["isActive"]
                    tasks = client.get(f"/api/v1/sessions/{run.session_id}/tasks")
                    assert tasks.status in (200, 503)
                    assert tasks.status == 503 or [task["state"] for task in tasks.json] == ["running"]
        for client in (asked, idle):
            wait_until(lambda client=client: unknown(client) == [404] * 3, 2 * HEARTBEAT + 1, "unknown again")
            assert client.get("/api/v1/conversations/c0/active-session").json["status"] == "active"
    for number, follower in enumerate(followers):
        follower.join(5)
        assert follower.refused == follower.gaps == []
        assert follower.numbers == [number, number + 1]
        assert [end.data["state"] for end in follower.ends] == ["completed"]


def test_a_process_that_asked_nothing_while_the_store_was_away_still_knows(
    server: FaultyRedis, make_app: Callable[..., tuple[Flask, SessionStatus]]
) -> None:
    app, _ = make_app(server.url)
    client = app.test_client()
    path = "/api/v1/conversations/c1/active-session"
    assert client.get(path).status_code == 404
    server.kill()
    server.start()
    assert client.get(path).status_code == 503


@pytest.mark.parametrize("option", [{"if_running": "reject"}, {"if_running": "replace"}, {"idempotency_key": "once"}])
def test_nothing_is_started_twice_while_a_store_that_came_back_empty_may_still_be_healed(
    server: FaultyRedis, make_app: Callable[..., tuple[Flask, SessionStatus]], option: dict[str, Any]
) -> None:
    proxy = Proxy(server.port)
    app, sessionstatus = make_app(proxy.url, **SETTINGS)
    web, other = make_app(server.url, **SETTINGS)

    def start() -> object:
        with web.app_context():
            try:
                return other.run("c1", namespace_id="somebody", **option).begin()
            except SessionStatusError as error:
                return error

    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody", idempotency_key="once") as run:
        web.extensions["sessionstatus"].store.ping()
        proxy.cut()
        server.kill()
        server.start()
        refused = start()
        assert isinstance(refused, StoreUnavailable)
        assert server.client.keys("*") == []
        proxy.mend()
        assert run.flush(5)
        store = web.extensions["sessionstatus"].store
        wait_until(lambda: store.task(run.session_id, run.task_id), 2, "the task is made again")
        if option == {"if_running": "replace"}:
            wait_until(lambda: start() is None, 2 * HEARTBEAT + 0.5, "a start")
            assert run.wait_cancelled(HEARTBEAT + 1)
        else:
            said = start()
            assert isinstance(said, (TaskRunning, AlreadyStarted))
            assert said.ids["taskId"] == run.task_id
    proxy.close()


def test_a_follower_whose_process_noticed_no_outage_is_not_told_that_its_session_was_deleted(
    server: FaultyRedis, make_app: Callable[..., tuple[Flask, SessionStatus]]
) -> None:
    """The store is still empty when the follower looks: the producer cannot reach it yet."""
    proxy = Proxy(server.port)
    app, sessionstatus = make_app(proxy.url, LEASE=60, HEARTBEAT=5)
    web, _ = make_app(server.url, LEASE=60, HEARTBEAT=5)
    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run:
        run.emit("number", 0)
        assert run.flush(5)
        stream = web.test_client().get(
            "/api/v1/conversations/c1/stream", headers={"Accept": "text/event-stream"}, buffered=False
        )
        frames: list[bytes] = []
        reading = Background(frames.extend, stream.response)
        wait_until(lambda: b"data: 0\n" in b"".join(frames), 5, "the first event")
        proxy.cut()
        server.kill()
        server.start()
        wait_until(lambda: "cmdstat_eval" in server.client.info("commandstats"), 5, "a look at the empty store")
        proxy.mend()
        run.emit("number", 1)
        wait_until(lambda: b"data: 1\n" in b"".join(frames), 5, "the second event")
    reading.result(5)
    seen = b"".join(frames)
    assert seen.count(b"event: number") == 2
    assert b"event: gap" not in seen
    assert seen.count(b"event: end") == 1
    assert b'"state":"completed"' in seen
    proxy.close()
