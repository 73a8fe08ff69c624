"""What a process that died between its steps leaves behind: a name, a place, a count. Redis only: in memory a step is
whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from contract.test_contract_places import FIVE, TTL, create, listed
from harness import Clock, Kind, a_session, a_task, begin

from flask_sessionstatus.errors import NamespaceFull, StoreUnavailable, TaskRunning
from flask_sessionstatus.models import Turn
from flask_sessionstatus.stores.base import Limits
from flask_sessionstatus.stores.redis import RedisStore

RECENT = 30_000


def members(kind: Kind, namespace: str = "u1") -> set[str]:
    """The members that both sets of a namespace hold."""
    assert kind.client is not None
    key = f"sessionstatus:namespace:{{{quote(namespace, safe='')}}}"
    places = {each.decode().split()[0] for each in kind.client.zrange(key, 0, -1)}
    assert places == {each.decode().split()[0] for each in kind.client.zrange(f"{key}:activity", 0, -1)}
    return places


class Dies(Exception):
    """The process is no more."""


@pytest.fixture(params=["redis-6.2", "redis-7"])
def kind(request: pytest.FixtureRequest, redis_url: Callable[[str], str]) -> Iterator[Kind]:
    kind = Kind(request.param, redis_url(request.param))
    yield kind
    kind.close()


@pytest.fixture
def redis_store(kind: Kind) -> RedisStore:
    store = kind.make(FIVE)
    assert isinstance(store, RedisStore)
    return store


def leave_a_ghost(store: RedisStore, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a place, and die before the session is made."""

    def die(*_: object) -> None:
        raise Dies

    with monkeypatch.context() as patch:
        patch.setattr(store._calls, "script", script_until(store, "begin", die))
        with pytest.raises(Dies):
            create(store, name)


def script_until(store: RedisStore, name: str, then: Callable[..., None]) -> Callable[..., object]:
    script = store._calls.script

    def call(called: str, *args: object) -> object:
        if called == name:
            then(called, *args)
        return script(called, *args)  # type: ignore[arg-type]

    return call


def test_a_place_without_a_session_stands_for_thirty_seconds_and_no_longer(
    redis_store: RedisStore, kind: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(redis_store, "a", "b", "c", "d")
    leave_a_ghost(redis_store, "ghost", monkeypatch)
    clock.move(RECENT - 1)
    with pytest.raises(NamespaceFull):
        create(redis_store, "e")
    clock.move(1)
    create(redis_store, "e")
    assert members(kind) == set("abcde")
    with pytest.raises(NamespaceFull):
        create(redis_store, "f")
    assert redis_store.totals().sessions_expired == 0


def crowd(store: RedisStore, count: int) -> None:
    for number in range(count):
        create(store, f"s{number:03}")


def test_in_a_large_namespace_a_ghost_is_found_at_once(
    kind: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kind.make(Limits(max_sessions_per_namespace=400))
    assert isinstance(store, RedisStore)
    crowd(store, 398)
    leave_a_ghost(store, "ghost", monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(store._directory, "leave", lambda *_: None)
        create(store, "deleted")
        store.delete_session("deleted")
    clock.move(RECENT)
    create(store, "a", "b")
    assert {"ghost", "deleted"} & members(kind) == set()
    with pytest.raises(NamespaceFull):
        create(store, "c")


def test_who_is_refused_in_a_large_namespace_looks_at_a_bounded_number_of_sessions(
    kind: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = kind.make(Limits(max_sessions_per_namespace=600))
    assert isinstance(store, RedisStore)
    crowd(store, 600)
    clock.move(RECENT)
    looked_at: list[int] = []
    batch = store._calls.batch

    def counted(*steps: object) -> object:
        looked_at.append(sum(getattr(step, "script", "") == "lives" for step in steps))
        return batch(*steps)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(store._calls, "batch", counted)
        with pytest.raises(NamespaceFull):
            create(store, "one more")
    assert 0 < sum(looked_at) <= 64


def test_a_place_that_was_lost_without_a_word_is_found_by_and_by(kind: Kind, clock: Clock) -> None:
    store = kind.make(Limits(max_sessions_per_namespace=200))
    assert kind.client is not None
    assert isinstance(store, RedisStore)
    crowd(store, 200)
    clock.move(RECENT)
    for number in range(100):  # half of the sessions were on a node that lost them
        kind.client.delete(f"sessionstatus:{{c-s{number:03}}}", f"sessionstatus:session:s{number:03}")
    refused = 0
    for number in range(100):
        while True:
            try:
                create(store, f"new {number}")
                break
            except NamespaceFull:
                refused += 1
                assert refused < 20
    assert len(members(kind)) == 200
    with pytest.raises(NamespaceFull):
        create(store, "one more")


def test_a_ghost_is_not_listed_and_gone_once_it_was_looked_for(
    redis_store: RedisStore, kind: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(redis_store, "a")
    leave_a_ghost(redis_store, "ghost", monkeypatch)
    assert listed(redis_store) == ["a"]
    assert members(kind) == {"a", "ghost"}
    clock.move(RECENT)
    assert listed(redis_store) == ["a"]
    assert members(kind) == {"a"}


def test_whoever_was_held_up_while_the_place_was_lost_makes_no_sixth_session(
    redis_store: RedisStore, kind: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = kind.make(FIVE)
    create(other, "a", "b", "c", "d")

    def hold_up(*_: object) -> None:
        clock.move(RECENT)
        create(other, "e")

    with monkeypatch.context() as patch:
        patch.setattr(redis_store._calls, "script", script_until(redis_store, "begin", hold_up))
        with pytest.raises(NamespaceFull):
            create(redis_store, "late")
    assert sorted(listed(other)) == list("abcde")
    assert members(kind) == set("abcde")
    assert other.session("late") is None


def test_a_place_taken_anew_after_its_expiry_is_not_taken_away_before_the_session_is_there(
    kind: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = kind.make(Limits(max_sessions_per_namespace=2)), kind.make(Limits(max_sessions_per_namespace=2))
    assert isinstance(store, RedisStore)
    create(store, "a", "b")
    clock.move(TTL - 1000)
    store.add_turns("b", [Turn("user", "x", turn_id="1")], {})
    clock.move(1000)
    refused: list[Exception] = []

    def contend(*_: object) -> None:
        with pytest.raises(NamespaceFull) as full:
            create(other, "c")
        refused.append(full.value)

    with monkeypatch.context() as patch:
        patch.setattr(store._calls, "script", script_until(store, "begin", contend))
        create(store, "a")
    assert len(refused) == 1
    assert sorted(listed(other)) == ["a", "b"]


def test_a_session_that_somebody_made_meanwhile_keeps_its_name_and_place_when_another_is_refused(
    redis_store: RedisStore, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = kind.make(FIVE)
    begin(redis_store, a_session("busy", "c-a"))
    session = redis_store.session

    def looked_at_before(session_id: str) -> object:
        found = session(session_id)
        create(other, "a")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(redis_store, "session", looked_at_before)
        with pytest.raises(TaskRunning):
            begin(redis_store, a_session("a", "c-a"), a_task("t2"), if_running="reject")
    assert kind.make(FIVE).session("a") is not None
    assert sorted(listed(other)) == ["a", "busy"]


def test_whoever_was_held_up_takes_a_place_again_where_there_is_one(
    redis_store: RedisStore, kind: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = kind.make(FIVE)

    def hold_up(*_: object) -> None:
        clock.move(RECENT)
        assert listed(other) == []

    with monkeypatch.context() as patch:
        patch.setattr(redis_store._calls, "script", script_until(redis_store, "begin", hold_up))
        create(redis_store, "late")
    assert members(kind) == {"late"}


def test_a_session_whose_place_could_not_be_renewed_is_not_taken_for_dead(
    redis_store: RedisStore, kind: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(redis_store, "a")
    clock.move(TTL - 1000)

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(redis_store._directory, "keep", away)
        with pytest.raises(StoreUnavailable):
            redis_store.add_turns("a", [Turn("user", "x", turn_id="1")], {})
    create(redis_store, "b")
    clock.move(1000)
    create(redis_store, "c")
    assert members(kind) == set("abc")
    assert sorted(listed(redis_store)) == ["a", "b", "c"]


def test_what_has_expired_is_gone_from_its_namespace_with_the_next_session(
    redis_store: RedisStore, kind: Kind, clock: Clock
) -> None:
    create(redis_store, "a", "b", "c")
    clock.move(10)
    create(redis_store, "lives")
    clock.move(TTL - 10)
    redis_store.add_turns("lives", [Turn("user", "x", turn_id="1")], {})
    assert members(kind) == {"lives"}
    assert redis_store.totals().sessions_expired == 3


def test_nothing_is_left_of_sessions_that_have_expired(redis_store: RedisStore, kind: Kind, clock: Clock) -> None:
    assert kind.client is not None
    for number in range(5):
        job = begin(redis_store, a_session(f"s{number}", f"c{number}"), a_task(f"t{number}"))
        job.append(["x"])
        job.end(result="1")
        redis_store.add_turns(f"s{number}", [Turn("user", "x", turn_id="1")], {})
    redis_store.delete_session("s4")
    clock.move(2 * TTL)
    left = {key for key in kind.client.keys("sessionstatus:*") if b"durations:" not in key and b"counters:" not in key}
    assert left == set()


def test_a_batch_of_counts_whose_answer_got_lost_is_counted_once(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(redis_store, "a")
    script = redis_store._calls.script

    def lose(name: str, *args: object) -> object:
        script(name, *args)  # type: ignore[arg-type]
        raise StoreUnavailable("the answer got lost")

    with monkeypatch.context() as patch:
        patch.setattr(redis_store._calls, "script", lose)
        with pytest.raises(StoreUnavailable):
            redis_store.totals()
    create(redis_store, "b")
    redis_store.totals()
    assert redis_store.totals().sessions_created == 2
