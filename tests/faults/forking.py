"""A process that forks while it works: `forking.py <conversation> <children>`.

Each child tries its parent's run, then does work of its own; the parent goes on meanwhile. It prints the session and
task of each run and what a child was told, a line each.
"""

from __future__ import annotations

import os
import sys

from host import OWNER, app, sessionstatus

from flask_sessionstatus import Run, SessionStatusError

COUNT = 200


def refused(run: Run) -> list[str]:
    """What of the parent's run raises here."""
    tried = {"emit": lambda: run.emit("number", 0), "progress": lambda: run.progress(1), "flush": lambda: run.flush(1)}
    said = []
    for name, attempt in tried.items():
        try:
            attempt()
        except SessionStatusError as error:
            if "parent" in str(error):
                said.append(name)
    return said


def child(parents: Run, conversation_id: str) -> None:
    said = refused(parents)
    with sessionstatus.run(conversation_id, namespace_id=OWNER) as run:
        for number in range(COUNT):
            run.emit("number", number)
    print("child", run.session_id, run.task_id, *said, flush=True)  # noqa: T201
    assert sessionstatus.shutdown(5)


def work(conversation_id: str, children: int) -> None:
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id=OWNER) as run:
        for number in range(COUNT):
            run.emit("number", number)
            if number % (COUNT // children) == 0:
                pid = os.fork()
                if pid == 0:
                    status = 1
                    try:
                        child(run, f"{conversation_id} {number}")
                        status = 0
                    finally:
                        os._exit(status)
                assert os.waitpid(pid, 0)[1] == 0
    print("parent", run.session_id, run.task_id, flush=True)  # noqa: T201


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
