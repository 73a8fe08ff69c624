"""A namespace's sessions: how many there may be, and the listing of those that live."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import Clock, Kind, a_session, a_task, at_once, begin, heal

from flask_sessionstatus.errors import NamespaceFull
from flask_sessionstatus.models import Turn
from flask_sessionstatus.stores.base import Limits, Store

MakeStore = Callable[[Limits], Store]
TTL = Limits().session_ttl
FIVE = Limits(max_sessions_per_namespace=5)


def listed(store: Store, namespace: str | None = "u1", limit: int = 50) -> list[str]:
    """The ids of all pages."""
    found: list[str] = []
    after: str | None = None
    while True:
        page = store.sessions(namespace, limit, after)
        found += [session.session_id for session in page.sessions]
        after = page.next
        if after is None:
            return found


def create(store: Store, *names: str, namespace: str = "u1") -> None:
    for name in names:
        store.create_session(a_session(name, f"c-{name}", namespace_id=namespace))


# How many


def test_whoever_is_refused_is_told_when_the_first_place_may_become_free(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(FIVE)
    create(store, "a", "b", "c")
    clock.move(TTL - 4500)
    create(store, "d", "e")
    with pytest.raises(NamespaceFull) as full:
        create(store, "f")
    assert full.value.retry_after == 5


def test_a_session_that_lives_on_keeps_its_place(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    create(store, "a")
    for number in range(3):
        clock.move(TTL - 1000)
        store.add_turns("a", [Turn("user", "x", turn_id=str(number))], {})
    with pytest.raises(NamespaceFull):
        create(store, "b")
    clock.move(TTL)
    create(store, "b")


def test_a_session_whose_task_runs_keeps_its_place(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    job = begin(store, a_session("a"))
    for _ in range(3):
        clock.move(TTL - 1000)
        job.beat()
    with pytest.raises(NamespaceFull):
        create(store, "b")


def test_of_twenty_threads_exactly_five_get_a_place(make_store: MakeStore) -> None:
    store = make_store(FIVE)
    results = at_once(*(lambda n=n: create(store, f"s{n}") for n in range(20)))  # type: ignore[misc]
    assert sum(result is None for result in results) == 5
    assert sum(isinstance(result, NamespaceFull) for result in results) == 15
    assert len(listed(store)) == 5


def test_a_healed_session_has_its_place_again(make_store: MakeStore, kind: Kind) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    job = begin(store, a_session("a"))
    if kind.client is None:
        store = job.store = make_store(Limits(max_sessions_per_namespace=1))
    else:
        kind.client.delete(*kind.client.keys("sessionstatus:*"))
    heal(job)
    assert listed(store) == ["a"]
    with pytest.raises(NamespaceFull):
        create(store, "b")


# The listing


def test_what_runs_is_listed_by_its_last_event(store: Store, clock: Clock) -> None:
    job = begin(store, a_session("a", "c-a"))
    for name in ("b", "c"):
        clock.move(10)
        create(store, name)
    clock.move(10)
    job.append(["x"])
    assert listed(store) == ["a", "c", "b"]
    page = store.sessions("u1", 1, None)
    assert [session.session_id for session in page.sessions] == ["a"]
    clock.move(10)
    job.beat()
    assert listed(store, limit=1) == ["a", "c", "b"]


def test_making_a_session_that_is_there_moves_it_nowhere_and_keeps_it_no_longer(store: Store, clock: Clock) -> None:
    create(store, "a")
    before = store.session("a")
    clock.move(10)
    create(store, "b")
    clock.move(10)
    create(store, "a")
    after = store.session("a")
    assert before is not None
    assert after is not None
    assert (after.expires_at, after.last_activity) == (before.expires_at, before.last_activity)
    assert listed(store) == listed(store, limit=1) == ["b", "a"]


def test_beginning_a_task_is_activity(store: Store, clock: Clock) -> None:
    create(store, "a", "b")
    clock.move(10)
    begin(store, a_session("a", "c-a"), a_task("t1"))
    assert listed(store) == listed(store, limit=1) == ["a", "b"]


def test_a_thousand_and_more_of_one_moment_are_listed_page_by_page(store: Store) -> None:
    names = [f"s{n:04}" for n in range(1100)]
    create(store, *names)
    found = listed(store, limit=200)
    assert sorted(found) == names
    assert found == listed(store, limit=64)


def test_a_page_holds_what_is_wanted(store: Store, clock: Clock) -> None:
    for number in range(30):
        create(store, f"s{number:02}")
        clock.move(1)
    page = store.sessions("u1", 3, None, lambda session: session.session_id.endswith("5"))
    assert [session.session_id for session in page.sessions] == ["s25", "s15", "s05"]
    assert page.next is None
    first = store.sessions("u1", 2, None, lambda session: session.session_id.endswith("5"))
    assert [session.session_id for session in first.sessions] == ["s25", "s15"]
    rest = store.sessions("u1", 2, first.next, lambda session: session.session_id.endswith("5"))
    assert ([session.session_id for session in rest.sessions], rest.next) == (["s05"], None)


def test_what_was_shown_is_not_shown_again_when_it_moves_up(store: Store, clock: Clock) -> None:
    for name in "abcdef":
        create(store, name)
        clock.move(1)
    page = store.sessions("u1", 2, None)
    assert [session.session_id for session in page.sessions] == ["f", "e"]
    store.update_session("e", {"language": "de"})
    store.update_session("b", {"language": "de"})
    after = page.next
    rest: list[str] = []
    while after is not None:
        page = store.sessions("u1", 2, after)
        rest += [session.session_id for session in page.sessions]
        after = page.next
    assert rest == ["d", "c", "a"]


# What is counted, by all processes together


def test_what_several_stores_count_comes_together(kind: Kind) -> None:
    first = kind.make()
    second = kind.make() if kind.is_redis else first
    create(first, "a", "b")
    create(second, "c")
    second.totals()
    assert first.totals().sessions_created == 3
    assert first.totals() == first.totals()
