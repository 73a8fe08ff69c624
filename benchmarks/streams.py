"""What streams cost: the producer's side and the way to a follower, against bare Redis in the same run.

    python benchmarks/streams.py [emit] [throughput] [latency] [--redis redis://127.0.0.1:6379/15]

Prints a table of figures and ratios. Without --redis a server is started.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from flask import Flask
from servers import redis_server

from flask_sessionstatus import Run, SessionStatus

TASKS = 100
EVENTS = 2_000
DATA = {"text": "a word or two "}
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


def deliveries(send: Callable[[int], Any], received: list[float], count: int, pause: float) -> list[float]:
    """Times from sending to receiving, in µs, for `count` messages sent `pause` s apart."""
    sent = []
    for i in range(count):
        sent.append(time.perf_counter())
        send(i)
        time.sleep(pause)
    until = time.monotonic() + 10
    while len(received) < count and time.monotonic() < until:
        time.sleep(0.01)
    return [(there - here) * 1e6 for here, there in zip(sent, received)]


def latency(uri: str) -> list[Row]:
    """From emit() in one app to the frame at a follower of another, against a bare XREAD BLOCK loop."""
    count, pause = 1_000, 0.004
    client, reader = redis.Redis.from_url(uri), redis.Redis.from_url(uri)
    client.xadd("bare", {"d": "first"})
    bare_received: list[float] = []

    def read() -> None:
        last = b"$"
        while len(bare_received) < count:
            found: Any = reader.xread({"bare": last}, block=5_000)
            streams = found.items() if isinstance(found, dict) else found
            for _, entries in streams:
                for entry in entries if not isinstance(entries[0], list) else entries[0]:
                    bare_received.append(time.perf_counter())
                    last = entry[0]

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    entry = {"t": "token", "d": '{"text":"a word"}'}
    bare = deliveries(lambda i: client.xadd("bare", entry), bare_received, count, pause)
    thread.join(15)

    writer, writing = host(uri)
    web, _ = host(uri)
    received: list[float] = []
    with writer.app_context(), writing.run("latency", namespace_id="user-1") as run:
        follower = web.test_client().get(f"/api/v1/conversations/latency/resume/{run.session_id}", buffered=False)

        def follow() -> None:
            for frame in follower.response:
                now = time.perf_counter()
                received.extend([now] * frame.count(b"event: token"))

        thread = threading.Thread(target=follow)
        thread.start()
        time.sleep(0.3)
        ours = deliveries(lambda i: run.emit("token", {"text": "a word"}), received, count, pause)
    thread.join(15)
    p50, bare_p50 = statistics.median(ours), statistics.median(bare)
    return [
        ("emit → follower", f"p50 {p50:,.0f} µs, p99 {percentile(ours, 0.99) / 1000:.1f} ms", "p99 < 10 ms"),
        ("bare XADD → XREAD BLOCK", f"p50 {bare_p50:,.0f} µs, p99 {percentile(bare, 0.99) / 1000:.1f} ms", ""),
        ("  ratio of the medians", f"{p50 / bare_p50:.2f}", "≤ 1.5"),
    ]


PARTS = {"emit": emit, "throughput": throughput, "latency": latency}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; default: all")
    parser.add_argument("--redis", help="URI of a server that may be emptied; default: one is started")
    arguments = parser.parse_args()
    print(f"{'what':28} {'figure':36} goal")
    for name in arguments.parts or PARTS:
        with redis_server(arguments.redis) as uri:
            gc.collect()
            for what, figure, goal in PARTS[name](uri):
                print(f"{what:28} {figure:36} {goal}", flush=True)


if __name__ == "__main__":
    main()
