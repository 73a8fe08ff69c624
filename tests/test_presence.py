"""Sessions that somebody is connected to are kept alive with the beat, at little cost."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from harness import Clock, a_session

from flask_sessionstatus import StoreUnavailable
from flask_sessionstatus.leases import BATCH, Presence
from flask_sessionstatus.stores.base import Limits
from flask_sessionstatus.stores.memory import MemoryStore

TTL = Limits().session_ttl


class Counting(MemoryStore):
    """A store that notes what is touched, and can be taken away."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(Limits(), clock=clock)
        self.touched: list[list[str]] = []
        self.away = False

    def touch(self, session_ids: Sequence[str]) -> Sequence[bool | Exception]:
        self.touched.append(list(session_ids))
        if self.away:
            raise StoreUnavailable("away")
        return super().touch(session_ids)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Counting:
    store = Counting(clock)
    for name in ("s1", "s2"):
        store.create_session(a_session(name))
    return store


@pytest.fixture
def presence(store: Counting, clock: Clock) -> Presence:
    return Presence(store, lambda: None, clock.monotonic)


def test_a_session_lives_while_somebody_is_connected_and_a_ttl_longer(
    store: Counting, presence: Presence, clock: Clock
) -> None:
    presence.enter("s1")
    for _ in range(20):
        clock.move(TTL // 4)
        presence.touch()
    assert store.session("s1") is not None
    assert store.session("s2") is None
    presence.leave("s1")
    clock.move(TTL // 2)
    presence.touch()
    assert store.session("s1") is not None
    clock.move(TTL // 2)
    assert store.session("s1") is None


def test_a_session_is_touched_four_times_in_its_ttl_whatever_the_beat(
    store: Counting, presence: Presence, clock: Clock
) -> None:
    presence.enter("s1")
    for _ in range(TTL // 5000):
        clock.move(5000)
        presence.touch()
    assert store.touched == [["s1"]] * 4


def test_it_is_held_until_the_last_connection_has_gone(store: Counting, presence: Presence, clock: Clock) -> None:
    for _ in range(2):
        presence.enter("s1")
    presence.leave("s1")
    assert not presence.wait_until_gone(0)
    clock.move(TTL // 4)
    presence.touch()
    assert store.touched == [["s1"]]
    timer = threading.Timer(0.02, lambda: presence.leave("s1"))
    timer.start()
    assert presence.wait_until_gone(10)
    timer.join()


def test_what_could_not_be_touched_is_touched_with_the_next_beat(
    store: Counting, presence: Presence, clock: Clock
) -> None:
    presence.enter("s1")
    clock.move(TTL // 2)
    store.away = True
    with pytest.raises(StoreUnavailable):
        presence.touch()
    store.away = False
    clock.move(500)
    presence.touch()
    clock.move(500)
    presence.touch()
    assert store.touched == [["s1"]] * 2


def test_many_are_touched_in_batches(store: Counting, presence: Presence, clock: Clock) -> None:
    for n in range(BATCH + 1):
        presence.enter(f"n{n}")
    clock.move(TTL // 4)
    presence.touch()
    assert [len(some) for some in store.touched] == [BATCH, 1]
