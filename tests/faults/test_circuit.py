"""A store that hangs or is gone: everybody is told so soon, nobody piles up, and it is noticed soon when it is back."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from faults.conftest import stored
from faults.stores import FaultyRedis
from flask import Flask
from harness import a_session, at_once, begin, logged
from processes.client import wait_until

from flask_sessionstatus import SessionStatus

pytestmark = pytest.mark.alone

MakeApp = Callable[..., tuple[Flask, SessionStatus]]
CROWD = 200
STATUS = "/api/v1/conversations/c1/active-session"


def timed(app: Flask, path: str = STATUS, method: str = "GET", **options: Any) -> Callable[[], tuple[int, float]]:
    def ask() -> tuple[int, float]:
        began = time.monotonic()
        status = app.test_client().open(path, method=method, **options).status_code
        return status, time.monotonic() - began

    return ask


def crowd(app: Flask) -> list[tuple[int, float]]:
    """Two hundred at once: reads, writes, and streams that are told to come back (200)."""
    kinds = [
        *(timed(app), timed(app, "/api/v1/sessions"), timed(app, "/api/v1/sessions", "POST", json={})),
        *(timed(app, "/api/v1/health"), timed(app, "/api/v1/sessions/s1/messages", "POST", json={"content": "x"})),
    ]
    return at_once(*(kinds[number % len(kinds)] for number in range(CROWD)))


def test_two_hundred_at_once_at_a_store_that_hangs_are_answered_within_two_seconds(
    server: FaultyRedis, make_app: MakeApp
) -> None:
    app, _ = make_app(server.url)
    begin(app.extensions["sessionstatus"].store, a_session("s1", "c1", "somebody"))
    assert timed(app)()[0] == 200
    threads = threading.active_count()
    server.pause()
    first = crowd(app)
    again = crowd(app)
    later = crowd(app)
    server.go_on()
    back = time.monotonic()
    wait_until(lambda: timed(app)()[0] == 200, 1, "the store is noticed")
    assert time.monotonic() - back < 1

    for answers in (first, again, later):
        assert Counter(status for status, _ in answers) == {503: CROWD}
    assert max(seconds for _, seconds in first) < 2
    for answers in (again, later):
        assert sum(seconds > 0.3 for _, seconds in answers) <= 2, "more than one at a time tried"
        assert max(seconds for _, seconds in answers) < 2
    assert threading.active_count() <= threads + 2
    assert server.client.info("clients")["connected_clients"] <= 20


@pytest.mark.parametrize("way", ["hangs", "is gone"])
def test_a_store_that_is_back_is_noticed_within_a_second(server: FaultyRedis, make_app: MakeApp, way: str) -> None:
    app, sessionstatus = make_app(server.url, LEASE=10, HEARTBEAT=2)
    store = app.extensions["sessionstatus"].store
    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run:
        run.emit("number", 0)
        assert run.flush(5)
        (server.pause if way == "hangs" else server.kill)()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            run.emit("number", 0)
            assert timed(app)()[0] == 503
            run.wait_cancelled(0.02)
        assert not store.recovering
        (server.go_on if way == "hangs" else server.start)()
        back = time.monotonic()
        assert run.flush(2), "the outbox has given up"
        assert time.monotonic() - back < 1
        assert store.recovering, "for two heartbeats from now on the unknown may be unknown here alone"
        assert timed(app)()[0] == 200
    found = stored(app, run)
    assert found is not None
    assert found[0] == "completed"
    assert set(found[1]) == {0, "end"}


def test_an_outage_of_seconds_is_one_warning_and_its_end_another(
    server: FaultyRedis, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="flask_sessionstatus")
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run:
        run.emit("number", 0)
        assert run.flush(5)
        server.kill()
        for _ in range(50):
            run.emit("number", 0)
            timed(app)()
            run.wait_cancelled(0.02)
        server.start()
        assert run.flush(5)
    said = logged(caplog.records)
    assert said.count("The store is unavailable") == 1
    assert said.count("The store is available again") == 1
    assert len(caplog.records) < 10, said


def test_one_connection_that_is_cut_costs_one_call_and_nobody_else_is_refused(
    server: FaultyRedis, make_app: MakeApp
) -> None:
    app, _ = make_app(server.url)
    begin(app.extensions["sessionstatus"].store, a_session("s1", "c1", "somebody"))
    ask = timed(app)
    at_once(*[ask] * 8)
    failed = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            status, _ = ask()
            if status != 200:
                failed.append(status)

    asking = [threading.Thread(target=keep_asking, daemon=True) for _ in range(8)]
    for thread in asking:
        thread.start()
    cut = 0
    while cut < 10:
        time.sleep(0.02)
        used = [each["id"] for each in server.client.client_list() if each["cmd"] == "evalsha"]
        if used:
            server.client.client_kill_filter(_id=used[0])
            cut += 1
    stop.set()
    for thread in asking:
        thread.join(5)
    assert len(failed) <= cut
