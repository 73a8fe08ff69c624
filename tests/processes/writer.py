"""One of many writers: `writer.py <conversation> <session> <writer> <count>` says ready, waits for a line, and writes.

One run with `count` events, and between them `count` turns of the session; at the end it prints the id of its task.
"""

from __future__ import annotations

import sys

from host import OWNER, app, sessionstatus


def write(conversation_id: str, session_id: str, writer: str, count: int) -> str:
    with sessionstatus.run(conversation_id, session_id, namespace_id=OWNER) as run:
        for number in range(1, count + 1):
            run.emit("number", {"writer": writer, "number": number})
            sessionstatus.sessions.add_turn(session_id, "assistant", f"{writer} {number}")
    return run.task_id


if __name__ == "__main__":
    conversation, session, name, wanted = sys.argv[1:]
    with app.app_context():
        print("ready", flush=True)  # noqa: T201
        sys.stdin.readline()
        print(write(conversation, session, name, int(wanted)), flush=True)  # noqa: T201
