"""F12: a stop reaches the work in another process at once, however it listens, and hits nothing else."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import pytest
from faults.conftest import Started, hear, say, stored
from faults.stores import FaultyRedis
from flask import Flask
from processes.client import wait_until
from processes.gunicorns import Server
from servers import Proxy

from flask_sessionstatus import SessionStatus
from flask_sessionstatus.stores.base import TaskRef

TIMES = 20


@pytest.mark.parametrize("how", ["cancelled", "check_cancelled", "on_cancel", "wait_cancelled", "coroutine"])
def test_a_stop_reaches_the_work_in_another_process(
    how: str, server: FaultyRedis, serve: Callable[..., Server], script: Callable[..., Started]
) -> None:
    # A stop that came with the next beat instead would take ten seconds.
    settings = {"STORAGE_URI": server.url, "LEASE": 60, "HEARTBEAT": 20}
    worker = script("stoppable.py", **settings)
    web = serve("--threads", "2", **settings).client
    took = []
    for number in range(TIMES):
        say(worker, f"c{number} {how}")
        session_id = hear(worker)
        asked = time.monotonic()
        answer = web.request("POST", f"/api/v1/conversations/c{number}/stop")
        assert answer.status == 202
        took.append(float(hear(worker)) - asked)
        tasks = web.get(f"/api/v1/sessions/{session_id}/tasks").json
        assert [task["state"] for task in tasks] == ["cancelled"]
    median = statistics.median(took) * 1000
    print(f"{how}: median {median:.1f} ms, longest {max(took) * 1000:.1f} ms")  # noqa: T201
    assert median < 1000


def test_a_stop_that_is_heard_after_the_block_was_left_does_not_hit_what_the_coroutine_does_next(
    server: FaultyRedis, make_app: Callable[..., tuple[Flask, SessionStatus]]
) -> None:
    proxy = Proxy(server.port)
    app, sessionstatus = make_app(proxy.url)
    other, _ = make_app(server.url)

    async def work() -> None:
        with app.app_context():
            async with sessionstatus.run("c1", namespace_id="somebody") as run:
                run.emit("number", 0)
                await asyncio.to_thread(run.flush, 5)
                proxy.cut()
                asked = other.extensions["sessionstatus"].store.cancel(TaskRef("c1", run.session_id, run.task_id))
                assert asked.cancel_requested_at is not None
            proxy.mend()
            # What comes after the block is somebody else's work: it must be left alone.
            await asyncio.to_thread(run.flush, 5)
            await asyncio.sleep(0.05)
        assert stored(other, run) == ("completed", [0, "end"])

    asyncio.run(work())
    proxy.close()


def test_a_callback_is_not_called_for_a_stop_that_came_after_the_work(
    server: FaultyRedis, make_app: Callable[..., tuple[Flask, SessionStatus]]
) -> None:
    proxy = Proxy(server.port)
    app, sessionstatus = make_app(proxy.url)
    other, _ = make_app(server.url)
    called: list[str] = []
    with app.app_context():
        with sessionstatus.run("c1", namespace_id="somebody") as run:
            run.on_cancel(lambda: called.append("late"))
            run.emit("number", 0)
            assert run.flush(5)
            proxy.cut()
            other.extensions["sessionstatus"].store.cancel(TaskRef("c1", run.session_id, run.task_id))
        proxy.mend()
        wait_until(lambda: stored(other, run) == ("completed", [0, "end"]), 5, "the end")
        assert run.flush(5)
    assert called == []
    proxy.close()
