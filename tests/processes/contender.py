"""One of many processes that want the same at the same time: `contender.py <what> <argument ...>`.

It says ready, waits for a line, acts, and says what came of it, a JSON text.

    places <namespace,...> <count> [die]   try to make as many sessions in each namespace, in threads of their own;
                                           `die`: SIGKILL oneself with the place taken, before the session is made
    turns <session> <name> <count>         append turns one by one until done, or until the session is gone
"""

from __future__ import annotations

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from host import app, sessionstatus

from flask_sessionstatus import NamespaceFull, NotFound


def places(namespaces: str, count: str, *then: str) -> Any:
    if then == ("die",):
        calls = app.extensions["sessionstatus"].store._calls
        script = calls.script

        def until_begin(name: str, *args: Any) -> Any:
            if name == "begin":
                os.kill(os.getpid(), signal.SIGKILL)
            return script(name, *args)

        calls.script = until_begin

    def make(namespace: str) -> str | None:
        with app.app_context():
            try:
                return sessionstatus.sessions.create(namespace_id=namespace).session_id
            except NamespaceFull:
                return None

    made = {}
    with ThreadPoolExecutor(int(count)) as pool:
        for namespace in namespaces.split(","):
            made[namespace] = [each for each in pool.map(make, [namespace] * int(count)) if each is not None]
    return made


def turns(session_id: str, name: str, count: str) -> Any:
    stored = []
    with app.app_context():
        for number in range(int(count)):
            try:
                turn = sessionstatus.sessions.add_turn(session_id, "assistant", f"{name} {number}")
            except NotFound:
                break
            stored.append(turn.position)
    return stored


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    with app.app_context():
        sessionstatus.stats()  # connected
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    print(json.dumps({"places": places, "turns": turns}[what](*arguments)), flush=True)  # noqa: T201
