"""What a process counts of sessions is written with the beat, whole and once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest
from harness import LUA_CLOCK, Kind, a_session, at_once
from processes.client import wait_until
from servers import Proxy

from flask_sessionstatus import RecordUnreadable, StoreUnavailable
from flask_sessionstatus.leases import BATCH, Tallies
from flask_sessionstatus.models import Session
from flask_sessionstatus.stores.base import Limits, Store, Tally
from flask_sessionstatus.stores.memory import MemoryStore
from flask_sessionstatus.stores.redis import RedisStore, connect


def counted(store: Store, session_id: str = "s1") -> Session:
    session = store.session(session_id)
    assert session is not None
    return session


def nothing() -> None:
    pass


@pytest.fixture
def memory() -> MemoryStore:
    store = MemoryStore(Limits())
    store.create_session(a_session())
    return store


class Failing:
    """A store whose answers to tallies are lost for a while, before or after it took them."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.calls: list[int] = []
        self.lose: str | None = None

    def tally(self, tallies: Sequence[Tally]) -> Sequence[bool | Exception]:
        self.calls.append(len(tallies))
        if self.lose == "the call":
            raise StoreUnavailable("away")
        answers = self._store.tally(tallies)
        if self.lose == "the answer":
            raise StoreUnavailable("away")
        if self.lose == "the last":
            return [*answers[:-1], StoreUnavailable("away")]
        if self.lose == "an unreadable record":
            return [RecordUnreadable("broken"), *answers[1:]]
        return answers


def test_counts_of_several_names_are_added_up_and_cost_one_call(memory: MemoryStore) -> None:
    store = Failing(memory)
    tallies = Tallies(store, nothing)  # type: ignore[arg-type]
    for _ in range(5):
        tallies.add("s1", {"accesses": 1})
        tallies.add("s1", {"audio_received": 1, "count:words": 10})
    assert store.calls == []
    tallies.write()
    session = counted(memory)
    assert (session.access_count, session.audio_chunks_received, session.counters) == (5, 5, {"words": 50})
    assert store.calls == [1]
    tallies.write()
    assert store.calls == [1]


@pytest.mark.parametrize("lose", ["the call", "the answer", "the last"])
def test_what_could_not_be_written_is_written_later_and_once(memory: MemoryStore, lose: str) -> None:
    memory.create_session(a_session("s2"))
    store = Failing(memory)
    tallies = Tallies(store, nothing)  # type: ignore[arg-type]
    for session_id in ("s1", "s2"):
        tallies.add(session_id, {"count:a": 3})
    store.lose = lose
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            tallies.write()
        for session_id in ("s1", "s2"):
            tallies.add(session_id, {"count:a": 2})
    store.lose = None
    tallies.write()
    assert [counted(memory, session_id).counters for session_id in ("s1", "s2")] == [{"a": 7}, {"a": 7}]


def test_one_unreadable_session_keeps_nothing_of_the_others(memory: MemoryStore) -> None:
    memory.create_session(a_session("s2"))
    store = Failing(memory)
    tallies = Tallies(store, nothing)  # type: ignore[arg-type]
    for session_id in ("s1", "s2"):
        tallies.add(session_id, {"count:a": 1})
    store.lose = "an unreadable record"
    tallies.write()
    assert counted(memory, "s2").counters == {"a": 1}
    tallies.write()
    assert store.calls == [2]


def test_many_sessions_are_written_in_batches(memory: MemoryStore) -> None:
    names = [f"n{n}" for n in range(BATCH + 1)]
    for name in names:
        memory.create_session(a_session(name, f"c{name}"))
    store = Failing(memory)
    tallies = Tallies(store, nothing)  # type: ignore[arg-type]
    for name in names:
        tallies.add(name, {"count:a": 1})
    tallies.write()
    assert store.calls == [BATCH, 1]
    assert all(counted(memory, name).counters == {"a": 1} for name in names)


def test_the_first_count_since_a_write_is_announced(memory: MemoryStore) -> None:
    told: list[bool] = []
    tallies = Tallies(memory, lambda: told.append(True))
    for _ in range(3):
        tallies.add("s1", {"count:a": 1})
    assert told == [True]
    tallies.write()
    tallies.add("s1", {"count:a": 1})
    assert told == [True, True]


def test_counts_while_it_is_written_are_not_lost(memory: MemoryStore) -> None:
    tallies = Tallies(memory, nothing)
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            tallies.write()

    writer = threading.Thread(target=write)
    writer.start()
    at_once(*(lambda: [tallies.add("s1", {"count:a": 1}) for _ in range(2000)] for _ in range(4)))
    done.set()
    writer.join(10)
    tallies.write()
    assert counted(memory).counters == {"a": 8000}


@pytest.fixture
def proxy(redis_kind: Kind) -> Iterator[Proxy]:
    assert redis_kind.url is not None
    proxy = Proxy(int(redis_kind.url.rpartition(":")[2].partition("/")[0]))
    yield proxy
    proxy.close()


def test_a_lost_answer_of_redis_counts_nothing_twice(redis_kind: Kind, proxy: Proxy) -> None:
    steady, shaky = redis_kind.make(), RedisStore(connect(proxy.url, {}), Limits(), clock=LUA_CLOCK)
    steady.create_session(a_session(), own=False)
    tallies = Tallies(shaky, nothing)
    shaky.ping()
    for answered in range(4):
        tallies.add("s1", {"count:a": 1})
        proxy.lose_next_answer(after=answered % 2)
        try:
            tallies.write()
        except StoreUnavailable:
            pass
    proxy.lose_nothing()

    def is_written() -> bool:
        with suppress(StoreUnavailable):  # its circuit is open for a moment
            tallies.write()
            return True
        return False

    wait_until(is_written, 5, "the store is asked again")
    assert counted(shaky).counters == {"a": 4}
    shaky.close()
