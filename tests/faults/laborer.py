"""A process that works as it is told: `laborer.py <conversation>...`, a task in each.

It prints the sessions and tasks, in pairs. Then each line of its input is something to do, and is answered once it is
done: `emit <count>`, `burn <seconds>` (pure Python, no pause), `fork` (a child that works in a conversation of its own
until its parent is gone), `end` (of the tasks). It stays until the end of its input.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack

from host import OWNER, app, sessionstatus

from flask_sessionstatus import Cancelled, Run


def emit(runs: list[Run], count: str) -> str:
    """Go on with the numbers; says how many tasks have been stopped."""
    stopped = 0
    for run in runs:
        try:
            for _ in range(int(count)):
                run.emit("number", {"number": run.task.tail})
        except Cancelled:
            stopped += 1
    return f"{stopped} stopped"


def burn(runs: list[Run], seconds: str) -> str:
    until, number = time.monotonic() + float(seconds), 0
    while time.monotonic() < until:
        number += sum(n * n for n in range(1000)) % 7
    return f"burnt {number}"


def fork(runs: list[Run]) -> str:
    """A child that says nothing for as long as it lives."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        os.close(0)
        with sessionstatus.run(f"{runs[0].conversation_id} of a child", namespace_id=OWNER) as run:
            os.write(writing, f"{run.session_id} {run.task_id} {os.getpid()}".encode())
            os.close(writing)
            run.wait_cancelled()
            run.check_cancelled()
        sessionstatus.shutdown(5)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return pipe.read()


ORDERS = {each.__name__: each for each in (emit, burn, fork)}


def work(conversations: list[str]) -> None:
    with ExitStack() as stack:
        runs = [stack.enter_context(sessionstatus.run(each, namespace_id=OWNER)) for each in conversations]
        print(*(f"{run.session_id} {run.task_id}" for run in runs), flush=True)  # noqa: T201
        for line in sys.stdin:
            name, *arguments = line.split()
            if name == "end":
                break
            print(ORDERS[name](runs, *arguments), flush=True)  # noqa: T201
    print("ended", flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    with app.app_context():
        work(sys.argv[1:])
