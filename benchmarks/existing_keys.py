"""What it costs to show another program's sessions (SESSIONSTATUS_EXISTING_KEYS), against bare views in the same run.

    python benchmarks/existing_keys.py [--sessions 100000] [--redis redis://127.0.0.1:6379/15] [--writes 5000]

Fills the server with that many sessions of another program, then prints: how long the scan at start-up takes, medians
and 95th percentiles of requests (µs) and their ratios to bare views, how soon a new session is seen, the memory that
a known session takes, and the processor time of this process while the other program writes. `bare, its keys known` is
a view that reads the stream's last entry and the status of keys that it knows; `bare, KEYS` is one that looks for them,
as such programs' own endpoints do.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import redis
from flask import Flask, jsonify
from servers import redis_server
from status import Request, request_of

from flask_sessionstatus import SessionStatus

KEYS = {
    "stream": "chat:stream:{conversation_id}:{session_id}",
    "status": "task:status:{conversation_id}:{session_id}",
    "cancel": "cancel:{conversation_id}:{session_id}",
}
MOST = 20_000
"""The bound of a warm active-session: the 95th percentile in µs."""

SOON = 1.0
"""The bound of the first sight of a new session, in s."""

WRITER = """
import sys, time, redis
url, rate, together, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
client = redis.Redis.from_url(url)
began, written = time.monotonic(), 0
while (passed := time.monotonic() - began) < seconds:
    if written < rate * passed:
        with client.pipeline(transaction=False) as pipe:
            for _ in range(together):
                number = written % 1000
                pipe.xadd(f"chat:stream:conversation-{number}:run-{number}",
                    {"type": "chunk", "conversation_id": f"conversation-{number}", "content": "word "}, maxlen=100)
                written += 1
            pipe.execute()
    else:
        time.sleep(0.001)
print(written)
"""


def fill(client: redis.Redis, count: int) -> None:
    for start in range(0, count, 1000):
        with client.pipeline(transaction=False) as pipe:
            for number in range(start, min(count, start + 1000)):
                name = f"conversation-{number}:run-{number}"
                pipe.xadd(f"chat:stream:{name}", {"type": "start", "conversation_id": f"conversation-{number}"})
                pipe.set(f"task:status:{name}", "running", ex=6000)
            pipe.execute()


def host(uri: str, **config: Any) -> tuple[Flask, SessionStatus]:
    app = Flask("host")
    app.config.update(SESSIONSTATUS_STORAGE_URI=uri, SESSIONSTATUS_ALLOW_ANONYMOUS=True, **config)
    extension = SessionStatus(app)
    app.register_blueprint(extension.create_blueprint(), url_prefix="/api/v1")
    return app, extension


def bare(client: redis.Redis) -> Flask:
    app = Flask("bare")

    def shown(name: str) -> Any:
        with client.pipeline(transaction=False) as pipe:
            pipe.xrevrange(f"chat:stream:{name}", count=1)
            pipe.get(f"task:status:{name}")
            (last,), status = pipe.execute()
        return jsonify({"cursor": last[0].decode(), "status": status.decode()})

    @app.route("/known/<conversation_id>/<session_id>")
    def known(conversation_id: str, session_id: str) -> Any:
        return shown(f"{conversation_id}:{session_id}")

    @app.route("/searched/<conversation_id>")
    def searched(conversation_id: str) -> Any:
        found: Any = client.keys(f"chat:stream:{conversation_id}:*")
        return shown(found[0].decode().removeprefix("chat:stream:"))

    return app


def measure(requests: dict[str, Sequence[Request]], rounds: int) -> dict[str, list[float]]:
    """The times of each kind of request in µs, sorted; the kinds take turns."""
    times: dict[str, list[float]] = {name: [] for name in requests}
    gc.collect()
    for turn in range(rounds):
        for name, some in requests.items():
            request = some[turn % len(some)]
            began = time.perf_counter_ns()
            request()
            times[name].append((time.perf_counter_ns() - began) / 1000)
    return {name: sorted(values) for name, values in times.items()}


def resident() -> int:
    """The memory of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def first_sights(app: Flask, client: redis.Redis, count: int) -> list[float]:
    """From a program's first XADD to the first answer that shows its session, in s."""
    seen = []
    web = app.test_client()
    for number in range(count):
        began = time.perf_counter()
        client.xadd(f"chat:stream:new-{number}:run", {"type": "queued", "conversation_id": f"new-{number}"})
        while web.get(f"/api/v1/conversations/new-{number}/active-session").status_code != 200:
            pass
        seen.append(time.perf_counter() - began)
    return sorted(seen)


def while_written_to(uri: str, rate: int, together: int, seconds: float) -> tuple[int, float]:
    """How many entries another process wrote, so many together, and the processor time that this one took meanwhile
    (s)."""
    command = [sys.executable, "-c", WRITER, uri, str(rate), str(together), str(seconds)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    began = time.process_time()
    said, _ = writer.communicate()
    return int(said), time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=100_000, help="how many sessions the other program has")
    parser.add_argument("--rounds", type=int, default=2000, help="requests of each kind")
    parser.add_argument("--writes", type=int, default=5_000, help="entries that the other program writes each second")
    parser.add_argument("--redis", help="URI of a server that may be written to; default: one is started")
    arguments = parser.parse_args()
    with redis_server(arguments.redis) as uri:
        client = redis.Redis.from_url(uri)
        fill(client, arguments.sessions)
        plain, plain_extension = host(uri)
        app, extension = host(uri, SESSIONSTATUS_EXISTING_KEYS=KEYS)
        plain.test_client().get("/api/v1/conversations/nobody/active-session")

        gc.collect()
        memory, began = resident(), time.perf_counter()
        web = app.test_client()
        while web.get("/api/v1/conversations/nobody/active-session").status_code != 404:
            time.sleep(0.01)
        scanned = time.perf_counter() - began
        index = app.extensions["sessionstatus"].store._index
        gc.collect()
        each = (resident() - memory) / len(index)
        print(f"scan at start-up: {len(index):,} sessions in {scanned:.2f} s; {each:.0f} bytes of memory each\n")

        numbers = [number * arguments.sessions // 100 for number in range(100)]
        views = bare(client)
        conversations = [f"/api/v1/conversations/conversation-{number}" for number in numbers]
        requests: dict[str, Sequence[Request]] = {
            "bare, its keys known": [request_of(views, f"/known/conversation-{n}/run-{n}") for n in numbers],
            "active-session": [request_of(app, f"{path}/active-session") for path in conversations],
            "task-status": [request_of(app, f"{path}/task-status") for path in conversations],
            "an unknown conversation": [request_of(app, "/api/v1/conversations/nobody/active-session", status="404")],
            "the same without the option": [
                request_of(plain, "/api/v1/conversations/nobody/active-session", status="404")
            ],
        }
        measured = measure(requests, arguments.rounds)
        searched = measure({"bare, KEYS": [request_of(views, f"/searched/conversation-{n}") for n in numbers[:3]]}, 30)
        base = statistics.median(measured["bare, its keys known"])
        print(f"{'request':30} {'p50 µs':>9} {'p95 µs':>9} {'ratio':>7} {'bound of p95':>13}")
        for name, times in {**measured, **searched}.items():
            p50, p95 = statistics.median(times), times[int(len(times) * 0.95)]
            bound = f"{MOST:13,}" if name == "active-session" else ""
            print(f"{name:30} {p50:9.1f} {p95:9.1f} {p50 / base:7.2f} {bound}")

        sights = first_sights(app, client, 300)
        print(
            f"\nfirst sight of a new session: p50 {1000 * statistics.median(sights):.2f} ms, "
            f"p95 {1000 * sights[int(len(sights) * 0.95)]:.2f} ms, longest {1000 * sights[-1]:.2f} ms "
            f"(bound {1000 * SOON:.0f} ms)"
        )

        seconds, rate = 4.0, arguments.writes
        idle = while_written_to(uri, 0, 1, seconds)[1]
        watched = {together: while_written_to(uri, rate, together, seconds) for together in (1, 20)}
        with app.app_context():
            extension.shutdown()
        _, without = while_written_to(uri, rate, 1, seconds)
        with plain.app_context():
            plain_extension.shutdown()
        print("\nprocessor time of a process while the other program writes to 1,000 streams:")
        for together, (written, busy) in watched.items():
            how = "one at a time" if together == 1 else f"{together} at a time"
            print(
                f"  {written / seconds:,.0f} entries/s, {how}: {100 * busy / seconds:.1f} % of a core, "
                f"{1e6 * (busy - without) / max(1, written):.1f} µs an entry"
            )
        print(f"  none: {100 * idle / seconds:.1f} %; without the option {100 * without / seconds:.1f} %")


if __name__ == "__main__":
    main()
