"""F18: a generation whose store goes away at its edges: around its begin, for all of it, and around its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults.conftest import LEASE, stored
from faults.stores import FaultyRedis
from flask import Flask
from processes.client import wait_until
from servers import Proxy

from flask_sessionstatus import SessionStatus, StoreUnavailable
from flask_sessionstatus.stores.base import TaskRef

MakeApp = Callable[..., tuple[Flask, SessionStatus]]


@pytest.fixture(params=[False, True], ids=["back-empty", "back-with-its-data"])
def either(request: pytest.FixtureRequest) -> Iterator[FaultyRedis]:
    server = FaultyRedis(persistent=request.param).start()
    yield server
    server.remove()


def completed(count: int) -> tuple[str, list[object]]:
    return "completed", [*range(count), "end"]


def seen(app: Flask, run: Any) -> tuple[str, list[object]] | None:
    """As stored; None while the store is away too."""
    try:
        return stored(app, run)
    except StoreUnavailable:
        return None


def test_an_end_while_the_store_is_away_waits_for_it_and_holds_nobody_up(
    either: FaultyRedis, make_app: MakeApp
) -> None:
    app, sessionstatus = make_app(either.url)
    with app.app_context():
        with sessionstatus.run("c1", namespace_id="somebody") as run:
            for number in range(100):
                run.emit("number", number)
            assert run.flush(5)
            either.kill()
            for number in range(100, 200):
                run.emit("number", number)
            left = time.monotonic()
        assert time.monotonic() - left < 2
    either.start()
    other, _ = make_app(either.url)
    wait_until(lambda: seen(other, run) == completed(200), 5, "the end")


def test_a_generation_of_which_only_the_begin_met_a_store_is_there_entirely(
    server: FaultyRedis, make_app: MakeApp
) -> None:
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run:
        for outage in range(4):
            server.kill()
            for number in range(outage * 250, outage * 250 + 250):
                run.emit("number", number)
            if outage < 3:
                server.start()
    server.start()
    other, _ = make_app(server.url)
    wait_until(lambda: seen(other, run) == completed(1000), 5, "the end")
    path = f"/api/v1/conversations/c1/resume/{run.session_id}"
    frames = other.test_client().get(path, headers={"Accept": "text/event-stream"}).get_data(as_text=True)
    assert frames.count("event: number") == 1000
    assert "event: gap" not in frames
    assert "event: end" in frames.rstrip().split("\n\n")[-1]


def test_for_one_lease_after_the_end_a_store_that_comes_back_empty_is_healed_and_then_no_more(
    server: FaultyRedis, make_app: MakeApp
) -> None:
    app, sessionstatus = make_app(server.url)
    other, _ = make_app(server.url)
    engine = app.extensions["sessionstatus"].engine
    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run:
        run.emit("number", 0)
    ended = time.monotonic()
    for _ in range(2):
        server.kill()
        server.start()
        assert seen(other, run) is None
        wait_until(lambda: seen(other, run) == completed(1), LEASE, "the refill")

    wait_until(lambda: not engine.outbox.beats(), LEASE + 2, "the outbox lets go")
    assert time.monotonic() - ended > LEASE
    server.kill()
    server.start()
    wait_until(engine.beats.beat, 5, "a beat")
    assert server.client.keys("*") == []


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_a_begin_whose_answer_was_lost_may_be_repeated(server: FaultyRedis, make_app: MakeApp, answers: int) -> None:
    direct, elsewhere = make_app(server.url)
    with direct.app_context(), elsewhere.run("c0", namespace_id="somebody"):
        pass  # now the server knows the scripts, and each step has one answer
    proxy = Proxy(server.port)
    app, sessionstatus = make_app(proxy.url, MAX_SESSIONS_PER_NAMESPACE=2)
    store = app.extensions["sessionstatus"].store
    store.ping()
    with app.app_context():
        run = sessionstatus.run("c1", namespace_id="somebody", if_running="reject", idempotency_key="once")
        proxy.lose_next_answer(after=answers)
        with pytest.raises(StoreUnavailable):
            run.begin()
        assert proxy.lost
        run.begin()
        run.begin()
        with run:
            run.emit("number", 0)
    assert stored(app, run) == completed(1)
    tasks = store.tasks(run.session_id, 10)
    assert [(task.task_id, task.attempt) for task in tasks] == [(run.task_id, 1)]
    assert len(server.client.zrange("sessionstatus:namespace:{somebody}", 0, -1)) == 2
    assert store.events(TaskRef("c1", run.session_id, run.task_id), run.task.cursor, 10).task.state.value == "completed"
    proxy.close()
