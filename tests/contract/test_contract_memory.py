"""What only the memory store does: it is bounded by number, and says what it let go."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import START, Clock, a_session, a_task, at_once, begin

from flask_sessionstatus.errors import StoreFull
from flask_sessionstatus.stores.base import Limits, Store, Verdict
from flask_sessionstatus.stores.memory import MemoryStore

TTL = Limits().session_ttl
LEASE = Limits().lease


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Callable[[int], MemoryStore]:
    return lambda maximum: MemoryStore(Limits(max_sessions=maximum), clock=clock)


def fill(store: Store, *names: str) -> None:
    for name in names:
        store.create_session(a_session(name, f"c-{name}"))


def there(store: Store, *names: str) -> list[str]:
    return [name for name in names if store.snapshot(f"c-{name}").sessions]


def test_the_least_recently_used_session_goes_first(make: Callable[[int], MemoryStore]) -> None:
    store = make(3)
    fill(store, "a", "b", "c")
    store.session("a")
    store.update_session("b", {"language": "de"})
    fill(store, "d")
    assert there(store, "a", "b", "c", "d") == ["a", "b", "d"]
    assert store.totals().sessions_evicted == 1
    assert (store.totals().sessions_created, store.totals().sessions_expired) == (4, 0)


def test_a_listing_is_no_use(make: Callable[[int], MemoryStore]) -> None:
    store = make(2)
    fill(store, "a", "b")
    store.session("a")
    store.sessions("u1", 10, None)
    fill(store, "c")
    assert there(store, "a", "b", "c") == ["a", "c"]


def test_a_session_with_a_live_task_is_never_evicted(make: Callable[[int], MemoryStore]) -> None:
    store = make(2)
    job = begin(store, a_session("a", "c-a"))
    fill(store, "b", "c", "d")
    assert there(store, "a", "b", "c", "d") == ["a", "d"]
    job.end()
    fill(store, "e", "f")
    assert there(store, "a", "e", "f") == ["e", "f"]


def test_a_store_full_of_live_sessions_refuses(make: Callable[[int], MemoryStore]) -> None:
    store = make(2)
    jobs = [begin(store, a_session(name, f"c-{name}"), a_task(name)) for name in ("a", "b")]
    with pytest.raises(StoreFull):
        fill(store, "c")
    with pytest.raises(StoreFull):
        begin(store, a_session("c", "c-c"))
    assert there(store, "a", "b", "c") == ["a", "b"]
    assert store.totals().sessions_created == 2
    begin(store, a_session("a", "c-a"), a_task("t2"))
    jobs[1].end()
    fill(store, "c")
    assert there(store, "a", "b", "c") == ["a", "c"]


def test_sessions_whose_task_was_lost_make_room(make: Callable[[int], MemoryStore], clock: Clock) -> None:
    store = make(2)
    for name in ("a", "b"):
        begin(store, a_session(name, f"c-{name}"), a_task(name))
    clock.move(LEASE)
    fill(store, "c")
    assert "c" in there(store, "a", "b", "c")
    assert len(there(store, "a", "b", "c")) == 2


def test_sessions_whose_task_was_lost_make_room_after_the_clock_jumped_back(
    make: Callable[[int], MemoryStore], clock: Clock
) -> None:
    store = make(1)
    begin(store, a_session("a", "c-a"))
    clock.move(LEASE - 1)
    with pytest.raises(StoreFull):
        fill(store, "b")
    clock.move(-3_600_000)
    with pytest.raises(StoreFull):
        fill(store, "b")
    clock.move(LEASE)
    fill(store, "b")
    assert there(store, "a", "b") == ["b"]


def test_expired_sessions_are_counted_and_leave_nothing_behind(
    make: Callable[[int], MemoryStore], clock: Clock
) -> None:
    store = make(10)
    fill(store, "a", "b")
    begin(store, a_session("dead", "c-dead"))
    clock.move(TTL)
    fill(store, "c")
    assert there(store, "a", "b", "dead", "c") == ["c"]
    assert store.totals().sessions_expired >= 2
    assert store.totals().sessions_evicted == 0


def test_expired_sessions_go_before_live_ones_are_evicted(make: Callable[[int], MemoryStore], clock: Clock) -> None:
    store = make(2)
    fill(store, "a")
    clock.move(TTL // 2)
    fill(store, "b")
    clock.move(TTL // 2)
    fill(store, "c")
    assert there(store, "a", "b", "c") == ["b", "c"]
    assert (store.totals().sessions_expired, store.totals().sessions_evicted) == (1, 0)


def test_an_evicted_session_was_not_deleted(make: Callable[[int], MemoryStore]) -> None:
    store = make(1)
    job = begin(store, a_session("a", "c-a"))
    job.end()
    fill(store, "b")
    assert job.append(["late"]).verdict is Verdict.MISSING
    store.create_session(a_session("a", "c-a"))
    assert there(store, "a", "b") == ["a"]


def test_what_it_returns_does_not_change_afterwards(make: Callable[[int], MemoryStore]) -> None:
    store = make(10)
    job = begin(store)
    before, snapshot = store.session("s1"), store.snapshot("c1")
    job.append(["a"])
    job.end()
    assert before is not None
    assert before.latest_task is not None
    assert before.latest_task.tail == 0
    assert (snapshot.tasks["t1"]["state"], snapshot.now) == ("running", START)


def test_many_threads_do_not_make_it_hold_more_than_its_maximum(make: Callable[[int], MemoryStore]) -> None:
    store = make(50)
    at_once(*(lambda n=n: fill(store, *(f"{n}.{i}" for i in range(50))) for n in range(8)))  # type: ignore[misc]
    assert len(store.sessions(None, 1000, None).sessions) == 50
    assert store.totals().sessions_created == 400
    assert store.totals().sessions_evicted == 350
