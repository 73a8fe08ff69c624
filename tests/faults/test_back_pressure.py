"""F14: while the store is away a producer fills a bounded outbox, then waits, and then is told; it never loses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from faults.conftest import stored
from faults.stores import Background, FaultyRedis
from flask import Flask
from processes.client import wait_until

from flask_sessionstatus import OutboxFull, Run, SessionStatus
from flask_sessionstatus.streaming.entry import Bounds

pytestmark = pytest.mark.alone

MakeApp = Callable[..., tuple[Flask, SessionStatus]]


def bounded(make_app: MakeApp, uri: str, bounds: Bounds) -> tuple[Flask, SessionStatus]:
    app, sessionstatus = make_app(uri, MAX_EVENTS=1_000_000)
    app.extensions["sessionstatus"].engine.outbox._bounds = bounds
    return app, sessionstatus


def test_a_full_outbox_waits_then_raises_and_what_it_took_is_stored(server: FaultyRedis, make_app: MakeApp) -> None:
    app, sessionstatus = bounded(make_app, server.url, Bounds(events=200, wait=0.5))
    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run:
        server.kill()
        began = time.monotonic()
        for number in range(200):
            run.emit("number", number)
        assert time.monotonic() - began < 0.5
        for _ in range(2):
            asked = time.monotonic()
            with pytest.raises(OutboxFull, match="200 events wait"):
                run.emit("number", -1)
            assert 0.5 <= time.monotonic() - asked < 1.5
        server.start()
        assert run.flush(5)
        for number in range(200, 1000):
            run.emit("number", number)
    assert stored(app, run) == ("completed", [*range(1000), "end"])


def test_a_store_that_is_back_in_time_lets_the_producer_go_on(server: FaultyRedis, make_app: MakeApp) -> None:
    app, sessionstatus = bounded(make_app, server.url, Bounds(events=1000, wait=30))
    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run:
        entry = run._live()
        server.kill()
        emitted: list[int] = []

        def produce() -> None:
            for number in range(5000):
                run.emit("number", number)
                emitted.append(number)

        work = Background(produce)
        wait_until(lambda: len(emitted) == 1000, 5, "the outbox is full")
        assert not work.done
        server.start()
        work.result(10)
        assert len(entry.events) <= 1000
    assert stored(app, run) == ("completed", [*range(5000), "end"])


@pytest.mark.parametrize(
    ("bounds", "size", "count"),
    [(Bounds(events=500, wait=30), 20, 30_000), (Bounds(bytes=262_144, wait=30), 5000, 4000)],
    ids=["count", "bytes"],
)
def test_a_long_detached_run_holds_no_more_than_its_bounds(
    server: FaultyRedis, make_app: MakeApp, bounds: Bounds, size: int, count: int
) -> None:
    app, sessionstatus = bounded(make_app, server.url, bounds)
    text = "x" * size
    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run:
        entry = run._live()
        most_events = most_bytes = 0
        for number in range(count):
            if number == count // 2:
                # Paused: a store that came back empty would have lost what is beyond the bounds.
                server.pause()
                threading.Timer(1.0, server.go_on).start()
            run.emit("number", {"number": number, "text": text})
            most_events, most_bytes = max(most_events, len(entry.events)), max(most_bytes, entry.bytes)
        assert most_events <= bounds.events
        assert most_bytes <= bounds.bytes + size + 100
        assert entry.bytes == sum(len((type + json).encode()) for type, json, _ in entry.events)
    found = stored(app, run)
    assert found is not None
    assert [data["number"] for data in found[1][:-1]] == list(range(count))  # type: ignore[index,call-overload]


def test_flush_says_whether_everything_is_stored(server: FaultyRedis, make_app: MakeApp) -> None:
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run("c1", namespace_id="somebody") as run:
        run.emit("number", 0)
        assert run.flush(5)
        server.kill()
        run.emit("number", 1)
        for timeout in (0.0, 0.3):
            asked = time.monotonic()
            assert not run.flush(timeout)
            assert timeout <= time.monotonic() - asked < timeout + 0.5
        waiting = Background(Run.flush, run)
        assert not waiting.done
        server.start()
        assert waiting.result(5)
        assert stored(app, run) == ("running", [0, 1])
