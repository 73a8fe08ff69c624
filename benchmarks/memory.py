"""What a long detached run holds: the memory of its process and of Redis over a million events of one task.

    python benchmarks/memory.py [--events 1000000] [--redis redis://127.0.0.1:6379/15]

Prints a table. The log and the outbox hold the last SESSIONSTATUS_MAX_EVENTS events (10,000), so that both should stay
as they are from the first mark on. Without --redis a server is started.
"""

from __future__ import annotations

import argparse
import gc
import time

import psutil
import redis
from flask import Flask
from servers import redis_server

from flask_sessionstatus import SessionStatus

MIB = 1_048_576
MARKS = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)


def measure(uri: str, events: int) -> list[tuple[int, float, float, float]]:
    """At each mark: events, seconds, MiB of this process, MiB of Redis."""
    sessionstatus = SessionStatus(identify=lambda: "user-1")
    app = Flask("host")
    app.config["SESSIONSTATUS_STORAGE_URI"] = uri
    sessionstatus.init_app(app)
    process, server = psutil.Process(), redis.Redis.from_url(uri)
    rows: list[tuple[int, float, float, float]] = []
    marks = {round(events * mark) for mark in MARKS}
    with app.app_context(), sessionstatus.run("memory", namespace_id="user-1") as run:
        began = time.perf_counter()
        for number in range(1, events + 1):
            run.emit("token", {"number": number, "text": "a word or two "})
            if number in marks:
                run.flush(30)
                took = time.perf_counter() - began
                gc.collect()
                used = server.info("memory")["used_memory"]
                rows.append((number, took, process.memory_info().rss / MIB, used / MIB))
    with app.app_context():
        sessionstatus.shutdown()
    server.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000, help="how many the task emits (1,000,000)")
    parser.add_argument("--redis", help="URI of a server that the task is written to; default: one is started")
    options = parser.parse_args()
    with redis_server(options.redis) as uri:
        rows = measure(uri, options.events)
    print(f"{'events':>10} {'s':>7} {'process MiB':>12} {'Redis MiB':>10}")
    for number, took, process, server in rows:
        print(f"{number:>10,} {took:>7.1f} {process:>12.1f} {server:>10.1f}")


if __name__ == "__main__":
    main()
