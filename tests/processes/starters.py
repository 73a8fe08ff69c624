"""Many processes that start at once: `starters.py <conversation> <count> <how>`.

It says ready; a line of its input lets all of them start, and each prints, as JSON, what it was told. The end of its
input lets them go.
"""

from __future__ import annotations

import json
import os
import sys
import time

from conversations import tasks
from host import OWNER, app, count, sessionstatus

from flask_sessionstatus import TaskRunning

TOGETHER = int(os.environ.get("TOGETHER", "0"))


def say(**told: object) -> None:
    """A line, whole: it is shorter than what a pipe takes at once."""
    os.write(1, json.dumps(told).encode() + b"\n")


def wait_for_the_end_of(pipe: int) -> None:
    os.read(pipe, 1)


def with_one_key(conversation_id: str, leave: int, number: int) -> None:
    task = count.with_options(namespace_id=OWNER, idempotency_key="once").start(conversation_id, 3, 0.0, 0.0)
    say(task=task.task_id, session=task.session_id)
    wait_for_the_end_of(leave)


def rejecting(conversation_id: str, leave: int, number: int) -> None:
    try:
        with sessionstatus.run(conversation_id, namespace_id=OWNER, if_running="reject") as run:
            say(task=run.task_id, refused=False)
            wait_for_the_end_of(leave)
    except TaskRunning as error:
        say(task=error.ids["taskId"], refused=True)


def replacing(conversation_id: str, leave: int, number: int) -> None:
    if number >= TOGETHER:
        wait_until_one_works(conversation_id, number)
    with sessionstatus.run(conversation_id, namespace_id=OWNER, if_running="replace") as run:
        since = time.monotonic()
        if not run.cancelled:
            run.emit("working")
            run.wait_cancelled()
            say(task=run.task_id, since=since, until=time.monotonic())
        run.check_cancelled()


def wait_until_one_works(conversation_id: str, number: int) -> None:
    """Wait until the last of so many tasks has emitted something."""
    store = app.extensions["sessionstatus"].store
    while len(found := tasks(store, conversation_id)) < number or not found[-1].tail:
        time.sleep(0.02)


WAYS = {each.__name__: each for each in (with_one_key, rejecting, replacing)}


def start(conversation_id: str, how: str, go: int, leave: int, number: int) -> None:
    with app.app_context():
        wait_for_the_end_of(go)
        WAYS[how](conversation_id, leave, number)
        assert sessionstatus.shutdown(5)


def main(conversation_id: str, children: int, how: str) -> None:
    (go, let_go), (leave, let_leave) = os.pipe(), os.pipe()
    for number in range(children):
        if os.fork() == 0:
            status = 1
            try:
                os.close(let_go)
                os.close(let_leave)
                start(conversation_id, how, go, leave, number)
                status = 0
            finally:
                os._exit(status)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    os.close(let_go)
    sys.stdin.read()
    os.close(let_leave)
    failed = sum(os.wait()[1] != 0 for _ in range(children))
    sys.exit(f"{failed} failed" if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
