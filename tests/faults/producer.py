"""A process that works and serves: `producer.py <conversation>`.

It prints its port, session and task; then each line of its input is a number up to which it emits, at some 3000
events/s, and says so. Its task ends with its input.
"""

from __future__ import annotations

import sys
import threading

from host import OWNER, app, sessionstatus
from werkzeug.serving import make_server

AT_ONCE, PAUSE = 10, 0.003


def produce(conversation_id: str) -> None:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    number = 0
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id=OWNER) as run:
        print(server.port, run.session_id, run.task_id, flush=True)  # noqa: T201
        for line in sys.stdin:
            while number < int(line):
                run.emit("number", {"number": number})
                number += 1
                if number % AT_ONCE == 0:
                    run.wait_cancelled(PAUSE)
            print(number, flush=True)  # noqa: T201
    # Those who follow here still read: the process stays until it is ended.
    print("ended", flush=True)  # noqa: T201
    threading.Event().wait()


if __name__ == "__main__":
    produce(sys.argv[1])
