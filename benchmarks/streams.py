"""What streams cost: the producer's side, the way to a follower and many of them, against Redis in the same run.

    python benchmarks/streams.py [emit] [throughput] [latency] [followers] [--redis redis://127.0.0.1:6379/15]

Prints a table of figures and ratios. Without --redis a server is started.
"""

from __future__ import annotations

import argparse
import gc
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from heapq import heappop, heappush
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import redis
from flask import Flask
from servers import redis_server

from flask_sessionstatus import Run, SessionStatus

TASKS = 100
EVENTS = 2_000
DATA = {"text": "a word or two "}
ARRIVING, ARRIVAL = 200, 120
"""So many followers may be on their way at a time, so that they arrive as fast as the server takes them; and for how
long they may (s)."""

Row = tuple[str, str, str]


def host(uri: str) -> tuple[Flask, SessionStatus]:
    extension = SessionStatus(identify=lambda: "user-1")
    app = Flask("host")
    app.config.update(SESSIONSTATUS_STORAGE_URI=uri, SESSIONSTATUS_MAX_EVENTS=1_000_000)
    extension.init_app(app)
    app.register_blueprint(extension.create_blueprint(), url_prefix="/api/v1")
    return app, extension


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def emit(uri: str) -> list[Row]:
    """What `emit()` costs the caller, at a language model's pace and as fast as it can."""
    app, extension = host(uri)
    rows = []
    with app.app_context():
        for name, pause, count in (("at 1,000 events/s", 0.001, 2_000), ("flat out", 0.0, 50_000)):
            with extension.run("emit", namespace_id="user-1") as run:
                times = []
                for _ in range(count):
                    began = time.perf_counter_ns()
                    run.emit("token", DATA)
                    times.append((time.perf_counter_ns() - began) / 1000)
                    if pause:
                        time.sleep(pause)
            p50, p99 = statistics.median(times), percentile(times, 0.99)
            rows.append((f"emit() {name}", f"p50 {p50:.1f} µs, p99 {p99:.1f} µs", "p50 ≤ 10 µs"))
        extension.shutdown()
    return rows


def raw_pipelined(client: redis.Redis, tasks: int, events: int, batch: int = 500) -> float:
    """Events/s of pipelined XADDs, `batch` a call, the same payloads."""
    began = time.perf_counter()
    total = tasks * events
    sent = 0
    while sent < total:
        with client.pipeline(transaction=False) as pipeline:
            for i in range(sent, min(sent + batch, total)):
                pipeline.xadd(f"raw:{i % tasks}", {"t": "token", "d": '{"text":"a word or two "}'})
            pipeline.execute()
        sent += batch
    return total / (time.perf_counter() - began)


def one_by_one(client: redis.Redis, events: int) -> float:
    """Events/s of one XADD round trip each."""
    began = time.perf_counter()
    for _ in range(events):
        client.xadd("single", {"t": "token", "d": '{"text":"a word or two "}'})
    return events / (time.perf_counter() - began)


def through_outbox(app: Flask, extension: SessionStatus, tasks: int, events: int) -> float:
    """Events/s of `tasks` runs in one process, emitted in turns, until all of it is stored."""
    with app.app_context():
        runs: list[Run] = []
        for i in range(tasks):
            run = extension.run(f"conversation-{i}", namespace_id="user-1")
            run.__enter__()
            runs.append(run)
        began = time.perf_counter()
        for _ in range(events):
            for run in runs:
                run.emit("token", DATA)
        for run in runs:
            run.flush(60)
        rate = tasks * events / (time.perf_counter() - began)
        for run in runs:
            run.__exit__(None, None, None)
    return rate


def throughput(uri: str) -> list[Row]:
    """Sustained events/s through the outbox from one process, 100 tasks."""
    client = redis.Redis.from_url(uri)
    rates: dict[str, list[float]] = {"outbox": [], "pipelined": [], "single": []}
    for _ in range(3):
        client.flushdb()
        app, extension = host(uri)
        rates["outbox"].append(through_outbox(app, extension, TASKS, EVENTS))
        with app.app_context():
            extension.shutdown()
        client.flushdb()
        rates["pipelined"].append(raw_pipelined(client, TASKS, EVENTS))
        rates["single"].append(one_by_one(client, 5_000))
    ours, pipelined, single = (statistics.median(values) for values in rates.values())
    return [
        (f"outbox, {TASKS} tasks", f"{ours:,.0f} events/s", ""),
        ("  × pipelined XADD", f"{ours / pipelined:.2f} of {pipelined:,.0f}/s", "≥ 0.5"),
        ("  × one XADD an event", f"{ours / single:.1f} of {single:,.0f}/s", "≥ 5"),
    ]


def read_bare(uri: str, count: int, results: Connection) -> None:
    """When each entry of a stream came, read with XREAD BLOCK; in a process of its own."""
    reader = redis.Redis.from_url(uri)
    received: list[float] = []
    last = b"$"
    results.send("ready")
    while len(received) < count:
        found: Any = reader.xread({"bare": last}, block=60_000)
        for _, entries in found.items() if isinstance(found, dict) else found:
            for entry in entries if not isinstance(entries[0], list) else entries[0]:
                received.append(time.perf_counter())
                last = entry[0]
    results.send(received)


def read_followed(uri: str, session_id: str, results: Connection) -> None:
    """When each event came to a follower; in a process of its own, as a web worker is."""
    app, _ = host(uri)
    stream = app.test_client().get(f"/api/v1/conversations/latency/resume/{session_id}", buffered=False)
    frames = iter(stream.response)
    next(frames)
    results.send("ready")
    received: list[float] = []
    for frame in frames:
        received += [time.perf_counter()] * frame.count(b"event: token")
    results.send(received)


def paced(send: Callable[[], Any], count: int, pause: float = 0.004) -> list[float]:
    """When each of `count` messages was sent, `pause` s apart."""
    time.sleep(0.3)
    sent = []
    for _ in range(count):
        sent.append(time.perf_counter())
        send()
        time.sleep(pause)
    return sent


def latency(uri: str, rounds: int = 5, count: int = 200) -> list[Row]:
    """From a producer to a follower in another process, in turns with a bare XADD to an XREAD BLOCK loop in one."""
    client = redis.Redis.from_url(uri)
    client.xadd("bare", {"d": "first"})
    processes = get_context("spawn")
    bare_here, bare_there = processes.Pipe()
    processes.Process(target=read_bare, args=(uri, rounds * count, bare_there)).start()
    bare_here.recv()
    entry = {"t": "token", "d": '{"text":"a word"}'}

    app, extension = host(uri)
    published: list[float] = []
    store = app.extensions["sessionstatus"].store
    append = store.append

    def noted(appends: Any) -> Any:
        began = time.perf_counter()
        published.extend(began for each in appends for event in each.events if event[0] == "token")
        return append(appends)

    store.append = noted
    added: list[float] = []
    emitted: list[float] = []
    here, there = processes.Pipe()
    with app.app_context():
        with extension.run("latency", namespace_id="user-1") as run:
            processes.Process(target=read_followed, args=(uri, run.session_id, there)).start()
            here.recv()
            for _ in range(rounds):
                added += paced(lambda: client.xadd("bare", entry), count)
                emitted += paced(lambda: run.emit("token", {"text": "a word"}), count)
        received = here.recv()
        extension.shutdown()
    bare = [(came - went) * 1e6 for went, came in zip(added, bare_here.recv())]
    rows = []
    bare_p50 = statistics.median(bare)
    rows.append(("bare XADD → XREAD BLOCK", f"p50 {bare_p50:,.0f} µs, p99 {percentile(bare, 0.99) / 1000:.1f} ms", ""))
    for name, starts in (("publish", published), ("emit()", emitted)):
        times = [(came - went) * 1e6 for went, came in zip(starts, received)]
        p50, p99 = statistics.median(times), percentile(times, 0.99) / 1000
        goal = "≤ 1.5; p99 < 10 ms" if name == "publish" else ""
        rows.append((f"{name} → follower", f"p50 {p50:,.0f} µs, p99 {p99:.1f} ms; ratio {p50 / bare_p50:.2f}", goal))
    return rows


def web_app() -> Flask:
    """What gunicorn serves to the followers."""
    app, _ = host(os.environ["STREAMS_REDIS"])
    return app


class Crowd:
    """Followers over real connections, read in one loop; each knows which number comes next."""

    def __init__(self, port: int, paths: list[str]) -> None:
        self.selector = selectors.DefaultSelector()
        self.received = [0] * len(paths)
        self.ended = [False] * len(paths)
        self.following = [False] * len(paths)
        self.wrong = 0
        self.again = 0
        self._port = port
        self._paths = paths
        self._waiting: list[tuple[float, int]] = []
        self._retry = [1.0] * len(paths)
        self._rest = [b""] * len(paths)
        self._last = [b""] * len(paths)
        until = time.monotonic() + ARRIVAL
        for number in range(len(paths)):
            self._connect(number)
            if number % 50 == 49:
                self.read(0.05)
            while number - sum(self.following) > ARRIVING and time.monotonic() < until:
                self.read(0.05)

    def _connect(self, number: int) -> None:
        """As an EventSource does, with the last event's id when it comes back."""
        link = socket.create_connection(("127.0.0.1", self._port))
        seen = b"Last-Event-ID: " + self._last[number] + b"\r\n" if self._last[number] else b""
        request = f"GET {self._paths[number]} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n".encode()
        link.sendall(request + seen + b"\r\n")
        link.setblocking(False)
        self.selector.register(link, selectors.EVENT_READ, number)

    def read_until(self, each: list[bool], seconds: float) -> None:
        """Read until it is true of every follower, at most for this time: a server that is asked for more than it can
        answer tells them to come back."""
        until = time.monotonic() + seconds
        while not all(each) and time.monotonic() < until:
            self.read(0.2)

    def read(self, seconds: float) -> None:
        """Read whatever comes in this time."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            while self._waiting and self._waiting[0][0] < time.monotonic():
                self._connect(heappop(self._waiting)[1])
            for key, _ in self.selector.select(min(left, 0.1)):
                assert isinstance(key.fileobj, socket.socket)
                chunk = key.fileobj.recv(65_536)
                if not chunk:
                    self.selector.unregister(key.fileobj)
                    key.fileobj.close()
                    if not self.ended[key.data]:
                        self.again += 1
                        self.following[key.data] = False
                        heappush(self._waiting, (time.monotonic() + self._retry[key.data], key.data))
                else:
                    self._take(key.data, chunk)

    def _take(self, number: int, chunk: bytes) -> None:
        *lines, self._rest[number] = (self._rest[number] + chunk).split(b"\n")
        for line in lines:
            if line == b"event: status":
                self.following[number] = True
            elif line.startswith(b"retry: "):
                self._retry[number] = int(line[7:]) / 1000
            elif line.startswith(b"id: "):
                self.received[number] += 1
                self.wrong += int(line.rpartition(b"-")[2]) != self.received[number]
                self._last[number] = line[4:]
            elif line == b"event: end":
                self.ended[number] = True


def followers(uri: str, count: int = 10_000, tasks: int = 100, events: int = 20) -> list[Row]:
    """Followers of 100 tasks in one gevent worker: memory for each, connections to Redis, nothing missing."""
    client = redis.Redis.from_url(uri)
    app, extension = host(uri)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1", "--worker-connections", "20000"]
    command += ["--backlog", "4096", "-b", f"127.0.0.1:{port}", "--log-level", "error", "streams:web_app()"]
    before = len(client.client_list())
    server = subprocess.Popen(command, cwd=Path(__file__).parent, env={**os.environ, "STREAMS_REDIS": uri})
    try:
        with app.app_context():
            runs = [extension.run(f"conversation-{i}", namespace_id="user-1") for i in range(tasks)]
            for run in runs:
                run.__enter__()
            ours = len(client.client_list()) - before
            worker = wait_for_worker(server.pid, port)
            idle = worker.memory_info().rss
            chosen = (runs[i % tasks] for i in range(count))
            crowd = Crowd(
                port, [f"/api/v1/conversations/{run.conversation_id}/resume/{run.session_id}" for run in chosen]
            )
            crowd.read_until(crowd.following, 120)
            each = (worker.memory_info().rss - idle) / count / 1024
            for number in range(events):
                for run in runs:
                    run.emit("token", {"number": number})
                crowd.read(0.5)
            connections = len(client.client_list()) - before - ours
            for run in runs:
                run.__exit__(None, None, None)
            crowd.read_until(crowd.ended, 60)
            each = max(each, (worker.memory_info().rss - idle) / count / 1024)
            extension.shutdown()
    finally:
        server.terminate()
        server.wait(20)
    whole = sum(received == events + 1 for received in crowd.received)
    return [
        (f"{count:,} followers, 1 worker", f"{each:.1f} KB each", "≤ 25 KB"),
        ("  connections to Redis", f"{connections}", "≤ 3"),
        (
            "  with all events, in order",
            f"{whole:,}; {crowd.wrong} out of place, {crowd.again} told to come back",
            f"{count:,}",
        ),
    ]


def wait_for_worker(parent: int, port: int) -> psutil.Process:
    """The worker's process once it answers."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port)) as link:
                link.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
                if link.recv(100):
                    return psutil.Process(parent).children()[0]
        except OSError:
            time.sleep(0.1)
    raise SystemExit("gunicorn did not start.")


PARTS: dict[str, Callable[[str], list[Row]]] = {
    "emit": emit,
    "throughput": throughput,
    "latency": latency,
    "followers": followers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, []],
        metavar="part",
        help=f"what to measure: {', '.join(PARTS)}; default: all",
    )
    parser.add_argument("--redis", help="URI of a server that may be emptied; default: one is started")
    arguments = parser.parse_args()
    print(f"{'what':28} {'figure':48} goal")
    for name in arguments.parts or PARTS:
        with redis_server(arguments.redis) as uri:
            gc.collect()
            for what, figure, goal in PARTS[name](uri):
                print(f"{what:28} {figure:48} {goal}", flush=True)


if __name__ == "__main__":
    main()
