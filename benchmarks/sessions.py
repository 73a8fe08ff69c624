"""What sessions cost: inserts through a full memory store, and the bytes that an idle session takes.

    python benchmarks/sessions.py [inserts] [memory] [redis] [--sessions 1000000] [--redis redis://127.0.0.1:6379/15]

Prints a table of figures and ratios. Inserts are measured in this process's own CPU time against a bare, locked
cachetools.TTLCache in turns of the same run. Without --redis a server is started.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import threading
import time
from collections.abc import Callable
from uuid import UUID

import psutil
import redis
from cachetools import TTLCache
from servers import redis_server

from flask_sessionstatus.stores import Limits, MemoryStore, Store, store_from_uri
from flask_sessionstatus.stores.base import SessionDraft

TURNS = 3
HELD = 100_000
BATCH = 1_000
Row = tuple[str, str, str]


def drafts(count: int, first: int = 0) -> list[SessionDraft]:
    """Sessions as a host makes them: UUIDs for session and conversation, ten sessions an owner."""
    numbers = range(first, first + count)
    names = [(str(UUID(int=n << 96, version=4)), str(UUID(int=(n << 96) + 1, version=4))) for n in numbers]
    return [SessionDraft(session, other, f"user-{n // 10}", "nl") for n, (session, other) in zip(numbers, names)]


def bare(wanted: list[SessionDraft], maximum: int) -> float:
    """Inserts/s of a locked TTLCache that holds `maximum`."""
    cache: TTLCache[str, SessionDraft] = TTLCache(maximum, 1800)
    lock = threading.Lock()
    began = time.process_time()
    for draft in wanted:
        with lock:
            cache[draft.session_id] = draft
    return len(wanted) / (time.process_time() - began)


def through_store(wanted: list[SessionDraft], maximum: int) -> float:
    """Inserts/s of a memory store that holds `maximum` sessions."""
    store = MemoryStore(Limits(max_sessions=maximum))
    began = time.process_time()
    for draft in wanted:
        store.create_session(draft)
    rate = len(wanted) / (time.process_time() - began)
    evicted = store.totals().sessions_evicted
    assert evicted == max(0, len(wanted) - maximum), evicted
    return rate


def inserts(count: int, _: str | None) -> list[Row]:
    """New sessions through a memory store that holds a tenth of them."""
    wanted = drafts(count)
    gc.collect()
    gc.freeze()
    rates = [(bare(wanted, count // 10), through_store(wanted, count // 10)) for _ in range(TURNS)]
    ratio = statistics.median(ours / theirs for theirs, ours in rates)
    base, ours = (statistics.median(column) for column in zip(*rates))
    return [
        (f"{count:,} inserts, {count // 10:,} held", f"{ours:,.0f}/s", ""),
        ("  × locked TTLCache", f"{ratio:.2f} of {base:,.0f}/s", "≥ 0.25"),
    ]


def fill(store: Store, wanted: list[SessionDraft]) -> None:
    for draft in wanted:
        store.create_session(draft)


def memory(count: int, _: str | None) -> list[Row]:
    """What the process grows by for each idle session."""
    held = min(count, HELD)
    store = MemoryStore(Limits(max_sessions=held))
    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    # The ids belong to the sessions: their text is part of what is measured.
    for start in range(0, held, BATCH):
        fill(store, drafts(BATCH, start))
    gc.collect()
    each = (process.memory_info().rss - before) / held
    return [(f"memory, {held:,} idle sessions", f"{each:,.0f} bytes each", "≤ 2,048")]


def in_redis(count: int, uri: str | None) -> list[Row]:
    """What Redis grows by for each idle session, all keys together."""
    held = min(count, HELD)
    with redis_server(uri) as url, redis.Redis.from_url(url) as client:
        store = store_from_uri(url, Limits())
        fill(store, drafts(1))
        before, keys = client.info("memory")["used_memory"], client.dbsize()
        fill(store, drafts(held, 1))
        each = (client.info("memory")["used_memory"] - before) / held
        more = (client.dbsize() - keys) / held
        store.close()
    return [(f"Redis, {held:,} idle sessions", f"{each:,.0f} bytes each, {more:.1f} keys", "≤ 2,048")]


PARTS: dict[str, Callable[[int, str | None], list[Row]]] = {"inserts": inserts, "memory": memory, "redis": in_redis}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, []],
        metavar="part",
        help=f"what to measure: {', '.join(PARTS)}; default: all",
    )
    parser.add_argument("--sessions", type=int, default=1_000_000, help="how many are inserted (default 1,000,000)")
    parser.add_argument("--redis", help="URI of a server that may be filled; default: one is started")
    arguments = parser.parse_args()
    print(f"{'what':36} {'figure':40} goal")
    # Memory first: what other parts leave behind would be used again.
    for name in arguments.parts or ["memory", "redis", "inserts"]:
        for what, figure, goal in PARTS[name](arguments.sessions, arguments.redis):
            print(f"{what:36} {figure:40} {goal}", flush=True)


if __name__ == "__main__":
    main()
