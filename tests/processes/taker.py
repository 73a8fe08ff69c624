"""A worker of a queue: `taker.py` reads tickets, a line each, and says what came of each: the attempt, or the error.

Behind a ticket and a tab may stand the worker's name.

It emits a number for each line `more`, and ends with its block at any other line.
"""

from __future__ import annotations

import sys

from host import app, sessionstatus

from flask_sessionstatus import SessionStatusError


def say(text: object) -> None:
    print(text, flush=True)  # noqa: T201


def take(line: str) -> None:
    ticket, _, name = line.partition("\t")
    try:
        with sessionstatus.work(ticket, worker=name or None) as run:
            say(run.attempt)
            number = 0
            while sys.stdin.readline() == "more\n":
                number += 1
                run.emit("number", {"number": number})
                run.flush()
                say(number)
    except SessionStatusError as error:
        say(type(error).__name__)
    else:
        say("done")


if __name__ == "__main__":
    with app.app_context():
        for line in sys.stdin:
            take(line.strip())
