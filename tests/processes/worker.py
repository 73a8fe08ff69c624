"""A worker: `worker.py <conversation>` says where it works, works until it is stopped, and says how far it came."""

from __future__ import annotations

import sys

from host import OWNER, app, sessionstatus

from flask_sessionstatus import Cancelled


def work(conversation_id: str) -> int:
    number = 0
    with sessionstatus.run(conversation_id, namespace_id=OWNER) as run:
        print(run.session_id, run.task_id, flush=True)  # noqa: T201
        try:
            while True:
                run.emit("number", {"number": number + 1})
                number += 1
                run.wait_cancelled(0.0005)
        except Cancelled:
            return number
    return number


if __name__ == "__main__":
    with app.app_context():
        print(work(sys.argv[1]), flush=True)  # noqa: T201
