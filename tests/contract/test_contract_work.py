"""No command and no script goes through more than a bounded number of elements, whatever was stored before: counted in
the scripts, at each command that they call, over the worst that can be stored."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest
import redis
from harness import LEASE_MS, LUA_CLOCK, Clock, Job, Kind, a_session, a_task, begin, whole_log
from servers import RedisServer, newest
from work import CALLS, Watched, most, watch

from flask_sessionstatus.errors import ConversationFull, NamespaceFull, NotFound
from flask_sessionstatus.models import ORIGIN, Cursor, Turn
from flask_sessionstatus.stores.base import Append, Beat, End, Limits, SessionDraft, Tally, TaskRef, Verdict
from flask_sessionstatus.stores.bounds import COUNTERS, LIVE_TASKS, NAMES, STEP, TASKS
from flask_sessionstatus.stores.fallback import FallbackStore
from flask_sessionstatus.stores.redis import RedisStore
from flask_sessionstatus.stores.redis.calls import SCRIPTS

SESSIONS, MANY_TASKS, MEMBERS, EVENTS, TURNS, MANY = 5_000, 5_000, 20_000, 10_000, 1_000, 300
COMMANDS = 12 * STEP
"""The most commands that a script calls: a dozen for each task of a session that is deleted."""

ARGUMENTS = {"append": 2 * 500, "restore": 3 * 500, "restore_task": 3 * 500}
"""Of scripts that are given up to 500 elements: see bounds.py. The others are given STEP, of two arguments each."""

log = logging.getLogger(__name__)
LIMITS = Limits(max_sessions_per_namespace=MEMBERS, session_ttl=36_000_000)
BOOKKEEPING = {"hget", "hset", "hincrby", "type", "llen", "hlen", "zcard", "xlen", "get"}
AROUND = {"eval", "evalsha", "config|resetstat", "config", "info", "hgetall", "hello", "role", "client|setinfo", "ping"}


def benchmark(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kind() -> Iterator[Kind]:
    """A server that nobody else asks meanwhile: what it was asked is compared with what was counted."""
    server = RedisServer(newest())
    server.start()
    kind = Kind("redis", server.url)
    yield kind
    try:
        assert kind.keys_without_expiry() == []
    finally:
        kind.close()
        server.remove()


@pytest.fixture
def store(kind: Kind) -> RedisStore:
    store = kind.make(LIMITS)
    assert isinstance(store, RedisStore)
    return store


def drafts(count: int, conversation: str | None = None, namespace: str = "u1") -> Iterator[SessionDraft]:
    for n in range(count):
        yield a_session(f"s{n:05}", conversation or f"c{n}", namespace)


def in_one_conversation(store: RedisStore, clock: Clock) -> None:
    """Very many sessions of one conversation: read, written, begun in, deleted, expired."""
    begin(store, a_session("s00007", "crowd"), a_task("t7", idempotency_key="k7")).append(["a"])
    for number in (4990, 3, 2500):
        name = f"s{number:05}"
        session = store.session(name)
        assert session is not None
        store.update_session(name, {"meta:a": "1"})
        store.touch([name])
        store.tasks(name, 200)
    job = begin(store, a_session("s00003", "crowd"), a_task("t3"), if_running="replace")
    job.append([str(n) for n in range(10)])
    job.end(result="1")
    store.snapshot("crowd")
    for number in range(4999, 4900, -1):
        assert store.delete_session(f"s{number:05}")
    assert store.snapshot("crowd").sessions
    clock.move(LIMITS.session_ttl - 60_000)
    store.touch(["s00100"])
    clock.move(60_000)
    assert set(store.snapshot("crowd").sessions) >= {"s00100"}
    begin(store, a_session("new", "crowd"), a_task("new"), if_running="allow")
    with suppress(NotFound):
        store.create_session(a_session("another", "crowd"))


def in_one_session(store: RedisStore, clock: Clock) -> None:
    """Very many tasks of one session: each made and ended, then listed, retried, queued, deleted."""
    for n in range(MANY_TASKS):
        begin(store, a_session("busy", "busy"), a_task(f"task {n}", idempotency_key=f"key {n}")).end()
    job = begin(store, a_session("busy", "busy"), a_task("more"))
    job.append([str(n) for n in range(250)])
    assert len(store.tasks("busy", 10_000) or ()) == TASKS
    job.append([], end=End("pending", wait=1000))
    clock.move(1)
    begun = store.claim(job.ref, "worker")
    assert begun is not None
    job.epoch, job.tail = begun.epoch, begun.tail
    job.draft = a_task("more", attempt=begun.attempt)
    job.end("error", error_type="X", traceback="trace", result="1")
    assert store.traceback("busy", "more") == "trace"
    store.result("busy", "more")
    clock.move(2 * LIMITS.session_ttl - 1000)
    assert store.session("busy") is None
    begin(store, a_session("busy", "busy"), a_task("anew"))
    for n in range(TASKS + 4):
        begin(store, a_session("busy", "busy"), a_task(f"again {n}")).end()
    for n in range(3):
        clock.move(LIMITS.session_ttl - 5000)
        assert store.add_turns("busy", [Turn("user", "x", turn_id=str(n))], {}) is not None
    assert store.delete_session("busy")


def so_many_live(store: RedisStore, clock: Clock) -> None:
    jobs = [begin(store, a_session(f"live {n % 9}", "live"), a_task(f"live {n}")) for n in range(LIVE_TASKS)]
    with pytest.raises(ConversationFull):
        begin(store, a_session("live 9", "live"), a_task("one more"))
    store.snapshot("live")
    store.beat([Beat(job.ref, 1, job.epoch) for job in jobs])
    clock.move(LEASE_MS + 1)
    for n in range(LIVE_TASKS):
        begin(store, a_session(f"live {n % 9}", "live"), a_task(f"later {n}"))
    store.beat([Beat(job.ref, 1, job.epoch) for job in jobs])
    assert all(job.append(["a"]).number == 1 for job in jobs)
    last = begin_or_wait(store)
    assert last is None or last.begun.stopping
    store.cancel(TaskRef("live", "live 0", "live 0"))


def so_many_come_back(store: RedisStore, clock: Clock) -> None:
    """Three times as many live tasks as may begin, each in a session of its own: they were lost, and return."""
    jobs: list[Job] = []
    for generation in range(3):
        for n in range(LIVE_TASKS):
            name = f"{generation}-{n}"
            jobs.append(begin(store, a_session(name, "wide"), a_task(name)))
        clock.move(LEASE_MS + 1)
    for job in jobs:
        assert job.append(["a"]).number == 1
        assert job.beat().number == 1
    assert store.snapshot("wide").sessions
    with pytest.raises(ConversationFull):
        begin(store, a_session("more", "wide"), a_task("more"))
    for job in jobs:
        job.end()
    begin(store, a_session("more", "wide"), a_task("more"))
    assert all(store.session(job.ref.session_id) is not None for job in jobs)


def begin_or_wait(store: RedisStore) -> Job | None:
    try:
        return begin(store, a_session("live 9", "live"), a_task("replaces"), if_running="replace")
    except ConversationFull:
        return None


def a_long_log(store: RedisStore) -> None:
    """A task with very many events, and a session with very many turns, names and counters."""
    job = begin(store, a_session("long", "long"), a_task("long"))
    for first in range(0, EVENTS + 500, 500):
        job.append([str(n) for n in range(first, first + 500)])
    seen, after = 0, ORIGIN
    while True:
        page = store.events(job.ref, after, 10_000)
        assert page is not None
        if not page.events:
            break
        seen, after = seen + len(page.events), page.events[-1].cursor
    assert seen == EVENTS
    store.events(job.ref, Cursor(job.epoch, EVENTS), 500)
    store.append([Append(job.ref, 1, job.epoch, EVENTS - 500, 0, [("token", "{}")] * 500)])
    for first in range(0, TURNS + 250, 250):
        store.add_turns("long", [Turn("user", str(n), turn_id=str(n)) for n in range(first, first + 250)], {})
    repeated = [Turn("user", str(n), turn_id=str(n)) for n in range(1000, 1250)]
    store.add_turns("long", repeated, {})
    assert len(store.turns("long", None, 10**9) or ()) == TURNS
    store.update_session("long", {f"meta:m{n}": json.dumps("x" * 6_000) for n in range(NAMES)})
    store.update_session("long", {f"meta:m{n}": None for n in range(NAMES // 2)})
    store.update_session("long", {f"slot:s{n}": "1" for n in range(NAMES // 2)})
    for n in range(300):
        store.tally([Tally("long", {f"count:c{n}": 1, "accesses": 1}, f"w{n}", 1)])
    store.tally([Tally("long", {f"count:d{n}": 1 for n in range(5_000)}, "w", 1)])
    session = store.session("long")
    assert session is not None
    assert len(session.counters) == COUNTERS
    store.claimed(job.ref, "nobody")
    store.delete_session("long")


def bounds_that_were_lowered(store: RedisStore, kind: Kind) -> None:
    """A log and turns that were kept under greater bounds than now: they come down to these, a step at a time."""
    job = begin(store, a_session("lower", "lower"), a_task("lower"))
    for first in range(0, 2000, 500):
        job.append([str(n) for n in range(first, first + 500)])
    for first in range(0, TURNS, 250):
        store.add_turns("lower", [Turn("user", str(n), turn_id=str(n)) for n in range(first, first + 250)], {})
    lower = kind.make(Limits(max_events=10, max_turns=10, session_ttl=LIMITS.session_ttl))
    assert isinstance(lower, RedisStore)
    lower._calls = lower._directory._calls = store._calls
    job.store = lower
    for n in range(10):
        assert job.append(["x"]).verdict is Verdict.STORED
        lower.add_turns("lower", [Turn("user", "x", turn_id=f"x{n}")], {})
    assert job.texts() == ["x"] * 10
    assert [turn.content for turn in lower.turns("lower", None, 100) or ()] == ["x"] * 10


def a_full_namespace(store: RedisStore, clock: Clock) -> None:
    """Very many sessions of one owner: refused, listed, and given places again."""
    clock.move(40_000)
    for n in range(3):
        with pytest.raises(NamespaceFull):
            store.create_session(a_session(f"beyond {n}", f"beyond {n}", "full"))
    page = store.sessions("full", 200, None)
    assert len(page.sessions) == 200
    assert len(store.sessions("full", 200, page.next, lambda session: session.session_id == "s00001").sessions) <= 1
    gone = store.sessions("full", 3, None).sessions
    for session in gone:
        store.delete_session(session.session_id)
    for n in range(3):
        store.create_session(a_session(f"in place {n}", f"in place {n}", "full"))
    with pytest.raises(NamespaceFull):
        store.create_session(a_session("beyond", "beyond", "full"))
    clock.move(LIMITS.session_ttl - 41_000)
    store.touch([f"in place {n}" for n in range(3)])
    clock.move(2_000)
    store.create_session(a_session("later", "later", "full"))
    with suppress(NamespaceFull):
        store.create_session(a_session("latest", "latest", "full"))
    store.totals()
    store.active_sessions()


def after_an_outage(store: RedisStore, watched: Watched, clock: Clock) -> None:
    """Very much that was written in memory while the server was away, and is handed over."""
    whole = begin(store, a_session("many", "many"), a_task("before"))
    whole.end()
    fallback = FallbackStore(store, wall=lambda: clock.now, monotonic=clock.monotonic)
    watched.away = True
    for n in range(MANY):
        clock.move(1)
        fallback.create_session(a_session(f"outage {n}", "outage"))
        begin(fallback, a_session("ended", "ended"), a_task(f"ended {n}")).end()
        begin(fallback, a_session("gone", "gone"), a_task(f"gone {n}", idempotency_key=f"{n}")).end()
        fallback.add_turns("outage 0", [Turn("user", f"{n}", turn_id=f"{n}")], {f"meta:{n % NAMES}": "1"})
    long = begin(fallback, a_session("written", "written"), a_task("written"))
    for start in range(0, 2_000, 500):
        long.append(["x"] * 500, base=start, floor=0)
    long.end(base=2_000)
    assert fallback.delete_session("gone")
    watched.away = False
    assert fallback.hand_over(60)
    assert len(store.sessions("u1", 200, None).sessions) == 200
    page = whole_log(store, long.ref)
    assert page is not None
    assert len(page.events) == 2_001
    fallback._switch.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_command_and_no_script_goes_through_more_than_so_much(store: RedisStore, kind: Kind, clock: Clock) -> None:
    client = kind.client
    assert isinstance(client, redis.Redis)
    fill = benchmark("filling").fill
    fill(store, drafts(SESSIONS, "crowd"), lambda: clock.move(1))
    client.execute_command("CONFIG", "RESETSTAT")
    watched = watch(store, LUA_CLOCK)

    in_one_conversation(store, clock)
    in_one_session(store, clock)
    so_many_live(store, clock)
    so_many_come_back(store, clock)
    a_long_log(store)
    bounds_that_were_lowered(store, kind)
    after_an_outage(store, watched, clock)
    fill(store, drafts(MEMBERS, None, "full"))
    a_full_namespace(store, clock)
    store._calls.script("bound", store._keys.conversation("live"), *(f"live%20{n}" for n in range(LIVE_TASKS)))

    found = most(client)
    stats = client.info("commandstats")
    counts = {name.decode(): int(count) for name, count in client.hgetall(CALLS).items()}
    lines = "\n".join(f"{script:10} {name:18} {count}" for (script, name), count in sorted(found.items()))
    log.info("%s\n%s\n%s\n%s", lines, watched.arguments, watched.replies, watched.longest_pipeline)

    assert {script for script, _ in found} == set(SCRIPTS), "Every script was run."
    bounds = {"(commands)": COMMANDS, "(elements)": 2 * COMMANDS}
    for (script, name), count in found.items():
        assert count <= bounds.get(name, STEP), (script, name)
    for name, arguments in watched.arguments.items():
        assert arguments <= ARGUMENTS.get(name, 2 * STEP) + 16, name
    assert all(elements <= STEP for elements in watched.replies.values())
    assert watched.longest_pipeline <= 3 * STEP

    # Nothing was called that was not counted.
    used = {re.sub("^cmdstat_", "", name): figures["calls"] for name, figures in stats.items()}
    known = {name.lower() for name in (*counts, *watched.calls)}
    assert set(used) - known <= BOOKKEEPING | AROUND | {"eval", "time", "keys", "pexpireat", "del", "set"}
    for name in ("zrange", "zrevrange", "zrangebyscore", "lrange", "xrange", "xrevrange", "ltrim", "xadd", "unlink"):
        assert used.get(name, 0) == counts.get(name.upper(), 0) + watched.calls.get(name.upper(), 0), name
