"""A process whose work is stopped: each line of its input is a conversation and how the work listens.

It prints the session once the work has begun, and the moment (monotonic, s) at which it heard of the stop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable

from host import OWNER, app, sessionstatus

from flask_sessionstatus import Cancelled, Run

POLL = 0.001


def cancelled(run: Run) -> None:
    while not run.cancelled:
        time.sleep(POLL)


def check_cancelled(run: Run) -> None:
    try:
        while True:
            run.check_cancelled()
            time.sleep(POLL)
    except Cancelled:
        return


def on_cancel(run: Run) -> None:
    told = threading.Event()
    run.on_cancel(told.set)
    told.wait()


def wait_cancelled(run: Run) -> None:
    run.wait_cancelled()


def in_thread(conversation_id: str, listen: Callable[[Run], None]) -> float:
    with sessionstatus.run(conversation_id, namespace_id=OWNER) as run:
        print(run.session_id, flush=True)  # noqa: T201
        listen(run)
        heard = time.monotonic()
        run.check_cancelled()
    return heard


def in_coroutine(conversation_id: str) -> float:
    heard = 0.0

    async def work() -> None:
        nonlocal heard
        async with sessionstatus.run(conversation_id, namespace_id=OWNER) as run:
            print(run.session_id, flush=True)  # noqa: T201
            try:
                await asyncio.sleep(3600)
            finally:
                heard = time.monotonic()

    try:
        asyncio.run(work())
    except asyncio.CancelledError:
        return heard
    raise AssertionError("The coroutine was not cancelled.")


LISTENERS = {each.__name__: each for each in (cancelled, check_cancelled, on_cancel, wait_cancelled)}

if __name__ == "__main__":
    with app.app_context():
        for line in sys.stdin:
            conversation, how = line.split()
            print(in_coroutine(conversation) if how == "coroutine" else in_thread(conversation, LISTENERS[how]))  # noqa: T201
            sys.stdout.flush()
