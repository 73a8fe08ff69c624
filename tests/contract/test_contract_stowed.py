"""Sessions of a conversation that are not among its recent ones: whatever happens to them, it is as if they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from fallbacks import Rig
from harness import LEASE_MS, Clock, Kind, a_session, a_task, begin, once_available

from flask_sessionstatus.errors import AlreadyStarted, StoreUnavailable, TaskRunning
from flask_sessionstatus.models import ORIGIN, TaskState
from flask_sessionstatus.sessions import current_session
from flask_sessionstatus.stores.base import Limits, Store, Verdict
from flask_sessionstatus.stores.bounds import LIVE_TASKS, RECENT_FIELDS, RECENT_SESSIONS
from flask_sessionstatus.stores.redis import RedisStore

TTL = Limits().session_ttl
MANY = RECENT_SESSIONS + 20


def sessions_with_a_task(store: Store, clock: Clock, count: int = MANY, prefix: str = "s") -> list[str]:
    """Sessions of one conversation whose task has ended, the oldest first, each a ms after the one before."""
    names = [f"{prefix}{number:03}" for number in range(count)]
    for name in names:
        begin(store, a_session(name), a_task(f"task of {name}")).end()
        clock.tick()
    return names


@pytest.fixture
def rig(redis_url: Callable[[str], str]) -> Iterator[Rig]:
    rig = Rig(redis_url("newest"))
    yield rig
    rig.close()


# Whose it is


@pytest.mark.parametrize("later", [1, TTL // 2, TTL - 1])
def test_nothing_of_an_expired_session_comes_back_with_one_of_the_same_id(
    store: Store, clock: Clock, later: int
) -> None:
    begin(store, a_session("first"), a_task("task of the first")).end()
    old = begin(store, a_session("work"), a_task("old"))
    old.append(["a secret"])
    old.end(result='"secret"')
    clock.move(1)
    begin(store, a_session("work"), a_task("newer")).end()
    clock.move(TTL + later)
    begin(store, a_session("work", namespace_id="u2"), a_task("other"))
    assert store.task("work", "old") is None
    assert store.result("work", "old") is None
    assert store.events(old.ref, ORIGIN, 10) is None
    assert [task.task_id for task in store.tasks("work", 10) or ()] == ["other"]
    assert begin(store, a_session("work", namespace_id="u2"), a_task("old")).texts() == []


# What was begun while Redis was away


def test_what_was_begun_in_an_outage_in_a_stowed_session_is_seen_and_stays(rig: Rig) -> None:
    store = rig.fallback()
    sessions_with_a_task(store, rig.clock)
    assert store.session("s005") is not None
    assert "s005" not in rig.plain.snapshot("c1").sessions
    with rig.outage(store):
        done = begin(store, a_session("s005"), a_task("done"))
        done.append(["answer"])
        done.end(result='"42"')
        rig.clock.move(5)
        runs = begin(store, a_session("s005"), a_task("runs"))
        runs.append(["a"])
    assert rig.plain.snapshot("c1").tasks["runs"]["session"] == "s005"
    shown = current_session(rig.plain.snapshot("c1"))
    assert shown is not None
    assert shown.session_id == "s005"
    with pytest.raises(TaskRunning):
        begin(rig.plain, a_session("s050"), a_task("refused"), if_running="reject")
    begin(rig.plain, a_session("s050"), a_task("another")).end()
    assert [task.task_id for task in rig.plain.tasks("s005", 10) or ()] == ["runs", "done", "task of s005"]
    assert rig.plain.result("s005", "done") == '"42"'
    assert runs.beat().verdict is Verdict.STORED
    assert runs.task.state is TaskState.RUNNING
    assert len(rig.plain.snapshot("c1").sessions) <= RECENT_SESSIONS


def test_a_task_that_ended_in_an_outage_makes_its_stowed_session_recent(rig: Rig) -> None:
    store = rig.fallback()
    sessions_with_a_task(store, rig.clock)
    assert store.session("s005") is not None
    with rig.outage(store):
        begin(store, a_session("s005"), a_task("done")).end(result='"42"')
    snapshot = rig.plain.snapshot("c1")
    assert "s005" in snapshot.sessions
    assert "done" in snapshot.tasks
    assert len(snapshot.sessions) == RECENT_SESSIONS
    for number in range(MANY):
        rig.clock.tick()
        begin(rig.plain, a_session(f"later {number}"), a_task(f"later {number}")).end()
    assert "s005" not in rig.plain.snapshot("c1").sessions
    assert rig.plain.result("s005", "done") == '"42"'
    assert [task.task_id for task in rig.plain.tasks("s005", 10) or ()] == ["done", "task of s005"]


def test_a_stowed_task_that_is_tried_again_in_an_outage_makes_its_session_recent(rig: Rig) -> None:
    store = rig.fallback()
    begin(store, a_session("first"), a_task("task of the first")).end()
    failed = begin(store, a_session("old"), a_task("old"))
    failed.end("error")
    begin(store, a_session("old"), a_task("newer")).end()
    sessions_with_a_task(store, rig.clock)
    assert store.session("old") is not None
    with rig.outage(store):
        failed.retry().end(result="1")
    snapshot = rig.plain.snapshot("c1")
    assert "old" in snapshot.sessions
    assert [each for each, task in snapshot.tasks.items() if task["session"] == "old"] == ["old"]
    session = rig.plain.session("old")
    assert session is not None
    assert session.latest_task is not None
    assert (session.latest_task.task_id, session.latest_task.attempt) == ("old", 2)


# Lost tasks that return


def test_a_lost_task_that_returns_does_not_hide_the_later_one_of_its_session(store: Store, clock: Clock) -> None:
    begin(store, a_session("first"), a_task("task of the first")).end()
    clock.move(1)
    job = begin(store, a_session("work"), a_task("old"))
    clock.move(LEASE_MS + 1)
    begin(store, a_session("work"), a_task("new")).end()
    sessions_with_a_task(store, clock)
    assert "work" not in store.snapshot("c1").sessions
    job.beat()
    assert {"old", "new"} <= set(store.snapshot("c1").tasks)
    clock.move(1)
    job.end("error")
    session = store.session("work")
    assert session is not None
    assert session.latest_task is not None
    assert (session.latest_task.task_id, session.status.value) == ("new", "completed")


# What is in sight


def hash_length(kind: Kind) -> int:
    return 0 if kind.client is None else int(kind.client.hlen("sessionstatus:{c1}"))


def test_however_many_stowed_sessions_are_deleted_no_more_are_in_sight(store: Store, kind: Kind, clock: Clock) -> None:
    names = sessions_with_a_task(store, clock, 3 * RECENT_SESSIONS)
    for name in names[1 : RECENT_SESSIONS + 20]:
        assert store.delete_session(name)
    assert len(store.snapshot("c1").sessions) == RECENT_SESSIONS
    assert hash_length(kind) <= RECENT_FIELDS
    for name in names[:-RECENT_SESSIONS:-1]:
        assert store.delete_session(name)
    left = [names[0], *names[RECENT_SESSIONS + 20 : -RECENT_SESSIONS + 1]]
    assert set(store.snapshot("c1").sessions) == set(left)


def prolonged(store: Store, names: Sequence[str], clock: Clock) -> None:
    """All expire but these, none of which gets a task meanwhile."""
    clock.move(TTL - 60_000)
    for name in names:
        assert store.update_session(name, {"meta:x": "1"})
    clock.move(60_000)


def test_where_some_of_the_sessions_in_sight_live_on_the_stowed_ones_that_live_join_them(
    store: Store, clock: Clock
) -> None:
    names = sessions_with_a_task(store, clock)
    prolonged(store, names[:20], clock)
    assert set(store.snapshot("c1").sessions) == set(names[:20])
    assert set(store.snapshot("c1").tasks) == {f"task of {name}" for name in names[:20]}


def test_a_begin_sees_the_stowed_sessions_that_join_those_in_sight(store: Store, kind: Kind, clock: Clock) -> None:
    names = sessions_with_a_task(store, clock)
    prolonged(store, names[:20], clock)
    begin(store, a_session("new"), a_task("new"))
    if kind.client is not None:
        fields = {field.decode() for field in kind.client.hkeys("sessionstatus:{c1}")}
        assert {f"session:{name}" for name in [*names[:20], "new"]} <= fields
    assert set(store.snapshot("c1").sessions) == {*names[:20], "new"}


def test_a_status_read_looks_for_stowed_sessions_once(redis_kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock = redis_kind.make(), redis_kind.clock
    assert isinstance(store, RedisStore)
    names = sessions_with_a_task(store, clock)
    script, called = store._calls.script, []

    def counted(name: str, *args: object) -> object:
        called.append(name)
        return script(name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(store._calls, "script", counted)
    store.snapshot("c1")
    assert called == ["status"]
    prolonged(store, names[:20], clock)
    called.clear()
    store.snapshot("c1")
    store.snapshot("c1")
    assert called == ["status", "refill", "status", "status"]
    assert hash_length(redis_kind) == 41, "The last epoch is a field of its own, and nothing else is left."


def test_very_many_that_have_expired_hide_none_that_lives(store: Store, clock: Clock) -> None:
    names = sessions_with_a_task(store, clock, 5 * RECENT_SESSIONS)
    prolonged(store, [names[0], names[3]], clock)
    begin(store, a_session("new"), a_task("new"))
    for _ in range(5):
        seen = set(store.snapshot("c1").sessions)
    assert seen == {names[0], names[3], "new"}


# Tasks that live


def test_a_task_whose_session_is_over_is_not_counted_among_the_live(
    make_store: Callable[..., Store], clock: Clock
) -> None:
    store = make_store(Limits(max_age=TTL + 60_000))
    for number in range(LIVE_TASKS):
        begin(store, a_session("old"), a_task(f"t{number}", pending=True, leased=False))
    clock.move(TTL)
    store.create_session(a_session("new"))
    clock.move(61_000)
    assert store.session("old") is None
    assert begin(store, a_session("new"), a_task("new")).task.state is TaskState.RUNNING


def test_a_task_whose_lease_ran_out_in_an_outage_is_not_overlooked_after_it(rig: Rig) -> None:
    store, clock = rig.through_proxy(), rig.clock
    begin(store, a_session("first"), a_task("task of the first")).end()
    clock.move(1)
    running = begin(store, a_session("running"), a_task("running"))
    clock.move(1)
    sessions_with_a_task(store, clock)
    rig.proxy.cut()
    with pytest.raises(StoreUnavailable):
        store.snapshot("c1")
    clock.move(2 * LEASE_MS)
    rig.proxy.mend()
    with pytest.raises(TaskRunning):
        once_available(lambda: begin(store, a_session("x"), a_task("x"), "reject"))
    begin(store, a_session("another"), a_task("another")).end()
    assert "running" in store.snapshot("c1").tasks
    with pytest.raises(TaskRunning):
        begin(store, a_session("x"), a_task("x"), "reject")
    assert running.beat().verdict is Verdict.STORED


def test_the_key_of_a_task_that_is_handed_over_counts_also_where_a_dead_one_lies(rig: Rig) -> None:
    store = rig.fallback()
    begin(store, a_session("deleted"), a_task("t1", idempotency_key="k")).end()
    store.delete_session("deleted")
    rig.clock.move(10)
    with rig.outage(store):
        begin(store, a_session("s2"), a_task("t2", idempotency_key="k")).append(["a"])
    with pytest.raises(AlreadyStarted) as again:
        begin(rig.plain, a_session("s3"), a_task("t3", idempotency_key="k"))
    assert again.value.task.task_id == "t2"


def test_the_key_of_a_task_that_is_handed_over_takes_none_that_counts(rig: Rig) -> None:
    store = rig.fallback()
    begin(store, a_session("first"), a_task("task of the first")).end()
    rig.proxy.cut()
    begin(store, a_session("s2"), a_task("t2", idempotency_key="k")).append(["a"])
    begin(rig.plain, a_session("s3"), a_task("t3", idempotency_key="k"))
    rig.proxy.mend()
    assert store.hand_over(10)
    with pytest.raises(AlreadyStarted) as again:
        begin(rig.plain, a_session("s4"), a_task("t4", idempotency_key="k"))
    assert again.value.task.task_id == "t3"


# When a session was last active


def test_a_task_that_is_not_in_sight_is_activity_of_its_session(store: Store, clock: Clock) -> None:
    begin(store, a_session("first"), a_task("task of the first")).end()
    ends = begin(store, a_session("work"), a_task("ends"))
    stops = begin(store, a_session("stops"), a_task("stops"))
    clock.move(LEASE_MS + 1)
    sessions_with_a_task(store, clock)
    for name in ("work", "stops"):
        begin(store, a_session(name), a_task(f"newer of {name}")).end()
    clock.move(100_000)
    assert ends.end().verdict is Verdict.STORED
    ended = clock.now
    session = store.session("work")
    assert session is not None
    assert session.last_activity == ended
    clock.move(1000)
    sessions_with_a_task(store, clock, MANY, "later ")
    assert "stops" not in store.snapshot("c1").sessions
    clock.move(1000)
    stops.cancel()
    session = store.session("stops")
    assert session is not None
    assert session.last_activity == clock.now
