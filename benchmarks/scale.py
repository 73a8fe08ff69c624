"""What a million sessions cost: memory, status reads, listings, healing, and the unit costs behind docs/scale.md.

    python benchmarks/scale.py [growth] [listing] [healing] [units] [bytes] [bus]
                               [--sessions 1000000] [--chart docs/scale.svg]

Prints a table of figures. Every part starts redis-servers of its own and ends them. `growth` fills one server step by
step and reads it in turns with another one that holds 1,000 sessions, so that both meet the same machine: its ratios
count. One session in ten has a task that runs. Some 1.7 GB and four minutes for a million.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis
from filling import fill
from flask import Flask
from servers import redis_server
from sessions import drafts
from werkzeug.test import EnvironBuilder

from flask_sessionstatus import SessionStatus
from flask_sessionstatus.models import Cursor, Turn
from flask_sessionstatus.sessions import current_session
from flask_sessionstatus.stores import Limits, store_from_uri
from flask_sessionstatus.stores.base import Append, Beat, End, SessionDraft, Tally, TaskDraft, TaskRef
from flask_sessionstatus.stores.redis import RedisStore

FEW = 1_000
DAY = 86_400_000
TASKS_IN = 10
"""One session in so many has a task."""

ROUNDS, EACH, WARM = 1_000, 5, 200
OPERATIONS, STRETCHES = 6_000, 3
Row = tuple[str, str, str]
Point = tuple[int, dict[str, tuple[float, float]]]


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def a_store(uri: str) -> RedisStore:
    """A store whose tasks stay alive without a beat while it is measured."""
    store = store_from_uri(uri, Limits(session_ttl=DAY, lease=DAY // 2))
    assert isinstance(store, RedisStore)
    return store


def task_of(draft: SessionDraft) -> TaskDraft | None:
    number = int(draft.session_id[:8], 16)
    return None if number % TASKS_IN else TaskDraft(f"task-{draft.session_id}", "token")


def progress(what: str, count: int) -> Callable[[int], None]:
    """Says on stderr how far something is, at most once a second."""
    said = [0.0]

    def say(done: int) -> None:
        if time.monotonic() - said[0] > 1 or done >= count:
            said[0] = time.monotonic()
            print(f"\r{what}: {done:,} of {count:,}", end="\n" if done >= count else "", file=sys.stderr, flush=True)

    return say


def fill_up(store: RedisStore, first: int, count: int) -> None:
    """The sessions from number `first` to `count`."""
    say = progress("sessions", count)
    for start in range(first, count, 10_000):
        many = min(10_000, count - start)
        fill(store, drafts(many, start), task_of=task_of)
        say(start + many)


def host(uri: str) -> tuple[Flask, list[str]]:
    """An app whose caller is the one in the list."""
    caller = [""]
    extension = SessionStatus(identify=lambda: caller[0])
    app = Flask("host")
    app.config.update(SESSIONSTATUS_STORAGE_URI=uri, SESSIONSTATUS_SESSION_TTL=DAY / 1000)
    extension.init_app(app)
    app.register_blueprint(extension.create_blueprint(), url_prefix="/api/v1")
    return app, caller


class Reader:
    """Reads the status of any of a server's sessions, through the store and over HTTP (straight into the app)."""

    def __init__(self, uri: str) -> None:
        self.count = FEW
        self._store = a_store(uri)
        self._app, self._caller = host(uri)
        self._environ = EnvironBuilder(path="/").get_environ()

    def store(self) -> None:
        (draft,) = drafts(1, random.randrange(self.count))
        began = time.perf_counter_ns()
        found = current_session(self._store.snapshot(draft.conversation_id))
        self.took = (time.perf_counter_ns() - began) / 1000
        assert found is not None
        assert found.session_id == draft.session_id

    def http(self) -> None:
        (draft,) = drafts(1, random.randrange(self.count))
        self._caller[0] = str(draft.namespace_id)
        path = f"/api/v1/conversations/{draft.conversation_id}/active-session"
        status: list[str] = []
        environ = {**self._environ, "PATH_INFO": path, "REQUEST_URI": path}
        began = time.perf_counter_ns()
        body = b"".join(self._app.wsgi_app(environ, lambda line, *_: status.append(line)))  # type: ignore[arg-type,return-value]
        self.took = (time.perf_counter_ns() - began) / 1000
        assert status == ["200 OK"], (status, body)

    def stop(self) -> None:
        self._app.extensions["sessionstatus"].stop(5)
        self._store.close()


def in_turns(readers: dict[str, Reader]) -> dict[str, list[float]]:
    """How long reads took (µs), by reader and way."""
    took: dict[str, list[float]] = {f"{name} {way}": [] for name in readers for way in ("store", "http")}
    variants = [(name, reader, way) for name, reader in readers.items() for way in ("store", "http")]
    gc.collect()
    gc.disable()
    for turn in range(ROUNDS + WARM):
        random.shuffle(variants)
        for name, reader, way in variants:
            for _ in range(EACH):
                getattr(reader, way)()
                if turn >= WARM:
                    took[f"{name} {way}"].append(reader.took)
    gc.enable()
    return took


def growth(count: int, chart: Path | None) -> Iterator[Row]:
    """Status reads and memory, from 1,000 sessions up to all of them."""
    points: list[Point] = []
    with redis_server() as small, redis_server() as large:
        readers = {"few": Reader(small), "many": Reader(large)}
        client = redis.Redis.from_url(large)
        few, many = a_store(small), a_store(large)
        fill_up(few, 0, FEW)
        fill_up(many, 0, FEW)
        before, filled, took_fill = client.info("memory")["used_memory"], FEW, 0.0
        sizes = [size for size in (10**3, 10**4, 10**5, 10**6, 10**7) if size < count]
        for size in [*sizes, count]:
            began = time.monotonic()
            fill_up(many, filled, size)
            took_fill += time.monotonic() - began
            filled = readers["many"].count = size
            took = in_turns(readers)
            points.append((size, {name: (statistics.median(us), percentile(us, 0.95)) for name, us in took.items()}))
            ratios = []
            for way in ("store", "http"):
                (p50, p95), (few50, few95) = points[-1][1][f"many {way}"], points[-1][1][f"few {way}"]
                ratios.append(f"{p50 / few50:.2f}")
                figure = f"p50 {p50:.0f} µs, p95 {p95:.0f} µs; at {FEW:,} in turns {few50:.0f} and {few95:.0f}"
                yield f"active-session, {way}, {size:,} sessions", figure, ""
            yield "  × at 1,000 sessions, p50", f"store {ratios[0]}, HTTP {ratios[1]}", "≤ 1.20"
        memory = client.info("memory")
        each = (memory["used_memory"] - before) / (filled - FEW)
        yield f"memory, {filled:,} sessions", f"{each:,.0f} bytes each, {client.dbsize() / filled:.1f} keys", ""
        yield "  of the whole server", f"{memory['used_memory_rss'] / 2**30:.2f} GiB resident", ""
        yield "filled", f"{(filled - FEW) / took_fill:,.0f} sessions/s by one process", ""
        for reader in readers.values():
            reader.stop()
        few.close()
        many.close()
        client.close()
    if chart is not None:
        chart.write_text(drawn(points), encoding="utf-8")


def listing(count: int, _: Path | None) -> Iterator[Row]:
    """The pages of an owner with many sessions."""
    owned = {"100 sessions": 100, f"{max(1000, count // 50):,} sessions": max(1000, count // 50)}
    with redis_server() as uri:
        store = a_store(uri)
        cursors: dict[str, str | None] = {}
        for name, size in owned.items():
            fill(
                store,
                (SessionDraft(f"{name} {n}", f"conversation of {name} {n}", name, "nl") for n in range(size)),
                task_of=lambda draft: (
                    TaskDraft(f"t {draft.session_id}", "token") if draft.session_id.endswith("0") else None
                ),
            )
            page = store.sessions(name, 50, None)
            cursors[name] = page.next
        took: dict[tuple[str, str], list[float]] = {}
        for _round in range(100):
            for name, cursor in cursors.items():
                for which, after in (("first page of 50", None), ("next page", cursor)):
                    began = time.perf_counter_ns()
                    page = store.sessions(name, 50, after)
                    took.setdefault((name, which), []).append((time.perf_counter_ns() - began) / 1e6)
                    assert len(page.sessions) == 50
        store.close()
    for (name, which), ms in took.items():
        figure = f"p50 {statistics.median(ms):.1f} ms, p95 {percentile(ms, 0.95):.1f} ms"
        yield f"listing, owner of {name}, {which}", figure, ""


def healing(_: int, __: Path | None) -> Iterator[Row]:
    """How fast what runs is stored again after the store lost everything."""
    tasks, events = 200, 500
    with redis_server() as uri, ExitStack() as stack:
        app, caller = host(uri)
        caller[0] = "user"
        extension: SessionStatus = app.extensions["sessionstatus"].extension
        store = a_store(uri)
        with app.app_context():
            runs = [stack.enter_context(extension.run(f"conversation-{n}", namespace_id="user")) for n in range(tasks)]
            for run in runs:
                for number in range(events):
                    run.emit("token", {"text": f"word {number} "})
            assert all(run.flush(30) for run in runs)
            client = redis.Redis.from_url(uri)
            client.flushall()
            began = time.perf_counter()
            for run in runs:
                run.emit("token", {"text": "more"})
            made = 0.0
            refs = [TaskRef(run.conversation_id, run.session_id, run.task_id) for run in runs]
            keys = [f"{store._keys.channel(ref)}:events" for ref in refs]
            while True:
                pipeline = client.pipeline(transaction=False)
                for key in keys:
                    pipeline.xlen(key)
                lengths = pipeline.execute()
                if not made and all(lengths):
                    made = time.perf_counter() - began
                if all(length == events + 1 for length in lengths):
                    break
                if time.perf_counter() - began > 120:
                    raise SystemExit("It did not heal.")
                time.sleep(0.01)
            took = time.perf_counter() - began
        store.close()
        client.close()
    yield f"healing, {tasks} tasks of {events} events, 1 process", f"{took:.2f} s", ""
    yield "  tasks made again", f"{tasks / took:,.0f} tasks/s", ""
    yield "  events stored again", f"{tasks * (events + 1) / took:,.0f} events/s", ""


def units(_: int, __: Path | None) -> Iterator[Row]:
    """What each operation costs Redis: its scripts alone (INFO commandstats), and all in all (INFO cpu); the best of
    three stretches."""
    with redis_server() as uri, redis.Redis.from_url(uri) as client:
        store = a_store(uri)
        fill_up(store, 0, 10_000)
        some = drafts(OPERATIONS)
        fresh = drafts(OPERATIONS, 1_000_000)
        begun = drafts(OPERATIONS, 2_000_000)
        refs = [TaskRef(each.conversation_id, each.session_id, f"t {each.session_id}") for each in begun]
        epochs: dict[str, int] = {}
        at: dict[str, int] = {}

        def begin(n: int) -> None:
            epochs[refs[n].task_id] = store.begin(begun[n], TaskDraft(refs[n].task_id, "token")).epoch
            at[refs[n].task_id] = 0

        def append(n: int, events: int, end: End | None = None) -> None:
            ref = refs[n]
            texts = [("token", f'{{"text":"word {at[ref.task_id] + i} "}}') for i in range(events)]
            (answer,) = store.append([Append(ref, 1, epochs[ref.task_id], at[ref.task_id], 0, texts, None, end)])
            assert not isinstance(answer, Exception), answer
            at[ref.task_id] += events

        def turn(n: int) -> None:
            store.add_turns(some[n].session_id, [Turn("user", "x" * 200, turn_id=str(n))], {})

        operations: dict[str, Callable[[int], object]] = {
            "status read": lambda n: store.snapshot(some[n].conversation_id),
            "session read": lambda n: store.session(some[n].session_id),
            "session made": lambda n: store.create_session(fresh[n]),
            "task begun, in a new session": begin,
            "append of 1 event": lambda n: append(n, 1),
            "append of 20 events": lambda n: append(n, 20),
            "beat": lambda n: store.beat([Beat(refs[n], 1, epochs[refs[n].task_id])]),
            "page of 20 events": lambda n: store.events(refs[n], Cursor(epochs[refs[n].task_id], 1), 20),
            "turn of 200 bytes": turn,
            "tally": lambda n: store.tally([Tally(some[n].session_id, {"accesses": 1}, "writer", n + 1)]),
            "listing of 50": lambda n: store.sessions(some[n % 100].namespace_id, 50, None),
            "end of a task": lambda n: append(n, 1, End("completed", result='"done"')),
            "session deleted": lambda n: store.delete_session(begun[n].session_id),
        }
        for name, operation in operations.items():
            costs = []
            for first in range(0, OPERATIONS, OPERATIONS // STRETCHES):
                store.ping()
                client.config_resetstat()
                before = used(client)
                for n in range(first, first + OPERATIONS // STRETCHES):
                    operation(n)
                took, script = used(client) - before, client.info("commandstats")["cmdstat_evalsha"]
                costs.append([each * STRETCHES / OPERATIONS for each in (took * 1e6, script["usec"], script["calls"])])
            # What else ran on the machine only adds.
            cpu, in_scripts, calls = min(costs)
            yield name, f"{cpu:6.1f} µs of CPU, {in_scripts:6.1f} µs in {calls:.1f} scripts", ""
        store.close()


def bytes_(_: int, __: Path | None) -> Iterator[Row]:
    """What each thing takes in Redis, all keys together."""
    count = 5_000
    with redis_server() as uri, redis.Redis.from_url(uri) as client:
        store = a_store(uri)
        fill(store, drafts(FEW, 9_000_000))

        def grown(act: Callable[[], object]) -> float:
            before = client.info("memory")["used_memory"]
            act()
            return float(client.info("memory")["used_memory"] - before)

        many = drafts(count)
        refs = [TaskRef(each.conversation_id, each.session_id, f"t {each.session_id}") for each in many]
        epochs = {}

        def begin() -> None:
            for draft, ref in zip(many, refs):
                epochs[ref] = store.begin(draft, TaskDraft(ref.task_id, "token")).epoch

        def emit() -> None:
            texts = [("token", f'{{"text":"word {n:03} "}}') for n in range(200)]
            for ref in refs:
                store.append([Append(ref, 1, epochs[ref], 0, 0, texts)])

        def turns() -> None:
            for draft in many:
                said = [Turn("user", "x" * 200, turn_id=f"{n:032}") for n in range(10)]
                store.add_turns(draft.session_id, said, {})

        yield "idle session", f"{grown(lambda: fill(store, many)) / count:,.0f} bytes", ""
        yield "  its task", f"{grown(begin) / count:,.0f} bytes", ""
        yield "  an event of 20 bytes", f"{grown(emit) / count / 200:,.1f} bytes", ""
        with client.pubsub() as listening:
            listening.psubscribe("*:task:*")
            listening.get_message(timeout=1)
            store.append([Append(refs[0], 1, epochs[refs[0]], 200, 0, [("token", '{"text":"word 200 "}')])])
            heard = listening.get_message(timeout=1)
            assert heard is not None
            yield "  a wake-up with an event of 20 bytes", f"{len(heard['data']):,} bytes", ""
        yield "  a turn of 200 bytes", f"{grown(turns) / count / 10:,.0f} bytes", ""
        store.close()


def bus(_: int, __: Path | None) -> Iterator[Row]:
    """What a published message of 600 bytes costs the node that it is published on, and each other one of a Cluster."""
    count, message = 30_000, b"x" * 600
    with ExitStack() as stack:
        nodes = [stack.enter_context(node()) for _ in range(3)]
        for other in nodes[1:]:
            port = other.get_connection_kwargs()["port"]
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port)
        until = time.monotonic() + 20
        while any(b"cluster_known_nodes:3" not in each.execute_command("CLUSTER", "INFO") for each in nodes):
            if time.monotonic() > until:
                raise SystemExit("The nodes did not meet.")
            time.sleep(0.1)
        for subscribers in (0, 10):
            listening = [nodes[1].pubsub() for _ in range(subscribers)]
            for each in listening:
                each.subscribe("channel")
            before, bytes_before = [used(each) for each in nodes], bytes_read(nodes[2])
            for _start in range(0, count, 100):
                pipeline = nodes[0].pipeline(transaction=False)
                for _n in range(100):
                    pipeline.execute_command("PUBLISH", "channel", message)
                pipeline.execute()
            settle(nodes)
            costs = [(used(each) - was) * 1e6 / count for each, was in zip(nodes, before)]
            yield f"PUBLISH, {subscribers} subscribers on another node", f"{costs[0]:.1f} µs of CPU there", ""
            yield "  on a node with the subscribers", f"{costs[1]:.1f} µs of CPU", ""
            came = (bytes_read(nodes[2]) - bytes_before) / count
            yield "  on a node without", f"{costs[2]:.1f} µs of CPU, {came:,.0f} bytes over the bus", ""
            for each in listening:
                each.close()


def used(client: redis.Redis) -> float:
    """The CPU time of a server so far (s)."""
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def bytes_read(client: redis.Redis) -> int:
    """What a server has read so far, its bus included; 0 where the system does not say."""
    said = Path(f"/proc/{client.info('server')['process_id']}/io")
    return int(said.read_text().split()[1]) if said.exists() else 0


def settle(clients: Sequence[redis.Redis]) -> None:
    """Wait until nothing more is received over the bus."""
    was: list[Any] = []
    while True:
        now = [each.execute_command("CLUSTER", "INFO").split(b"messages_publish_received:")[-1][:9] for each in clients]
        if now == was:
            return
        was = now
        time.sleep(0.2)


@contextmanager
def node() -> Iterator[redis.Redis]:
    """A node of a Cluster that has no slots: enough to publish."""
    with tempfile.TemporaryDirectory() as folder:
        options = ("--cluster-enabled", "yes", "--cluster-config-file", f"{folder}/nodes.conf")
        port = random.randrange(20_000, 30_000)  # the bus has the one 10,000 above
        with redis_server(None, *options, port=port) as uri, redis.Redis.from_url(uri) as client:
            yield client


def drawn(points: Sequence[Point]) -> str:
    """How much longer status reads take than those of 1,000 sessions in the same turns, as an SVG."""
    width, height, left, right = 560, 260, 50, 110
    ways = (("http", "p50", 0), ("store", "p50", 0), ("http", "p95", 1), ("store", "p95", 1))
    lines = {
        f"{way} {name}": [by[f"many {way}"][at] / by[f"few {way}"][at] for _, by in points] for way, name, at in ways
    }
    top = max(1.4, *(ratio for ratios in lines.values() for ratio in ratios)) * 1.05

    def x(index: int) -> float:
        return left + index * (width - left - right) / max(1, len(points) - 1)

    def y(ratio: float) -> float:
        return height - 40 - ratio / top * (height - 70)

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" '
        'font-size="12"><title>Time of a status read by number of sessions</title>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left - 30}" y="18">active-session: time × that at {FEW:,} sessions, in the same turns</text>',
    ]
    for tenths in range(0, int(top * 10) + 1, 2):
        colour = "#b91c1c" if tenths == 12 else "#ddd"
        drawn.append(f'<path d="M{left} {y(tenths / 10):.1f}H{width - right}" stroke="{colour}"/>')
        drawn.append(f'<text x="{left - 8}" y="{y(tenths / 10) + 4:.1f}" text-anchor="end">{tenths / 10:.1f}</text>')
    for index, (size, _) in enumerate(points):
        drawn.append(f'<text x="{x(index):.1f}" y="{height - 18}" text-anchor="middle">{size:,}</text>')
    places = sorted(lines, key=lambda name: -lines[name][-1])
    for name, ratios in lines.items():
        colour = "#1d4ed8" if name.startswith("http") else "#b45309"
        dash = ' stroke-dasharray="5 4"' if name.endswith("p95") else ""
        path = " ".join(f"{x(index):.1f},{y(ratio):.1f}" for index, ratio in enumerate(ratios))
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        at = 60 + 18 * places.index(name)
        drawn.append(f'<path d="M{width - 98} {at - 4}h20" stroke="{colour}" stroke-width="2"{dash}/>')
        drawn.append(f'<text x="{width - 72}" y="{at}">{name}</text>')
    return "\n".join([*drawn, "</svg>\n"])


PARTS: dict[str, Callable[[int, Path | None], Iterator[Row]]] = {
    "growth": growth,
    "listing": listing,
    "healing": healing,
    "units": units,
    "bytes": bytes_,
    "bus": bus,
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
    parser.add_argument("--sessions", type=int, default=1_000_000, help="how many there are in the end (1,000,000)")
    parser.add_argument("--chart", type=Path, help="where to draw the times of `growth`, as an SVG")
    arguments = parser.parse_args()
    logging.getLogger("flask_sessionstatus").setLevel(logging.CRITICAL)
    print(f"{'what':52} {'figure':68} goal")
    for name in arguments.parts or PARTS:
        for what, figure, goal in PARTS[name](arguments.sessions, arguments.chart):
            print(f"{what:52} {figure:68} {goal}", flush=True)


if __name__ == "__main__":
    main()
