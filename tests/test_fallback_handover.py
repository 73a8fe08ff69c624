"""What was written while Redis was away is handed over exactly once, wherever the handing over is broken off."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from fallbacks import Rig, as_it_was_written, before, everything, meanwhile, turn
from harness import START, Job, a_session, a_task, at_once, begin, heal, logged, once_available, whole_log

from flask_sessionstatus.errors import AlreadyStarted, NotFound, SessionConflict, StoreFull, StoreUnavailable
from flask_sessionstatus.models import Cursor, TaskState, Turn
from flask_sessionstatus.sessions import owner_of
from flask_sessionstatus.stores.base import Answer, Append, Change, Limits, Tally, TaskRef, Verdict
from flask_sessionstatus.stores.bounds import NAMES, RECENT_SESSIONS
from flask_sessionstatus.stores.existing_keys import ExistingKeys
from flask_sessionstatus.stores.existing_keys.store import ExistingKeysStore
from flask_sessionstatus.stores.fallback import FallbackStore
from flask_sessionstatus.stores.fallback.handover import HOLD
from flask_sessionstatus.stores.fallback.outage import OutageMemory

LEASE = Limits().lease
TTL = Limits().session_ttl


@pytest.fixture
def rig(redis_url: Callable[[str], str]) -> Iterator[Rig]:
    rig = Rig(redis_url("newest"))
    yield rig
    assert lasting(rig) == []
    rig.close()


def seen(rig: Rig) -> dict[str, Any]:
    found = everything(rig.plain)
    found["key"] = rig.client.exists("sessionstatus:{c1}:key:once") == 1
    found["durations"] = rig.client.lrange("sessionstatus:durations:report", 0, -1)
    found["namespace"] = sorted(rig.client.zrange("sessionstatus:namespace:{u1}", 0, -1))
    found["created"] = rig.plain.totals().sessions_created
    return found


def through_an_outage(rig: Rig, store: FallbackStore, lose: int | None = None, cut: int | None = None) -> bool:
    """All of it; the handing over loses its answer number `lose`, or is cut there. Whether it came so far."""
    job = before(rig.plain, store)
    store.counting.acknowledge(store.counting.batch()[0])
    rig.proxy.cut()
    meanwhile(rig.clock, store, job)
    if lose is not None:
        rig.proxy.lose_next_answer(after=lose)
    rig.proxy.mend()
    assert store.hand_over(10)
    came_so_far = rig.proxy.lost
    rig.proxy.lose_nothing()
    store.totals()
    return came_so_far


@pytest.fixture
def undisturbed(rig: Rig) -> dict[str, Any]:
    through_an_outage(rig, rig.fallback())
    return seen(rig)


def test_one_of_each_thing_that_can_be_written_is_there_as_it_was_written(rig: Rig) -> None:
    through_an_outage(rig, rig.fallback())
    found = seen(rig)
    as_it_was_written(found, START)
    assert found["key"]
    assert found["durations"] == [b"1234"]
    assert found["namespace"] == [b"s1 c1", b"s2 c2", b"s4 c4", b"s5 c5"]
    with pytest.raises(NotFound):
        rig.plain.create_session(a_session("s6", "c6"))
    assert lasting(rig) == []


def test_a_session_without_a_task_leaves_nothing_in_redis_for_ever(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    with rig.outage(store):
        store.create_session(a_session())
    assert rig.plain.session("s1") is not None
    assert lasting(rig) == []


def lasting(rig: Rig) -> list[str]:
    """The keys that would stay for ever, but for what is meant to."""
    keys = [key.decode() for key in rig.client.keys("sessionstatus:*") if rig.client.pttl(key) == -1]
    return sorted(key for key in keys if ":durations:" not in key and key != "sessionstatus:counters:{all}")


def test_a_handing_over_may_be_broken_off_after_each_of_its_steps(rig: Rig, undisturbed: dict[str, Any]) -> None:
    """Each step in turn gets through, its answer is lost, and with it the connection."""
    for step in range(200):
        rig.client.flushall()
        rig.clock.move(START - rig.clock.now)
        came_so_far = through_an_outage(rig, rig.fallback(), lose=step)
        found = seen(rig)
        if came_so_far and not found["durations"]:
            found["durations"] = undisturbed["durations"]  # better one too few than one twice
        assert found == undisturbed, step
        if not came_so_far:
            break
    assert step > 20, "There were more steps than that."


def test_a_delete_is_handed_over_also_where_another_program_has_a_session_of_that_id(rig: Rig) -> None:
    there = rig.through_proxy()
    existing = ExistingKeysStore(there, ExistingKeys.parse({"stream": "chat:{conversation_id}:{session_id}"}))
    store = FallbackStore(there, existing, monotonic=rig.clock.monotonic, wall=rig.clock)
    try:
        begin(store, a_session("both", "c1"))
        rig.client.xadd("chat:c2:both", {"type": "token"})
        assert once_available(lambda: "both" in store.snapshot("c2").sessions)
        with rig.outage(store):
            assert store.delete_session("both")
            # It has expired there, so that its id leads to the other program's.
            rig.client.delete(*rig.client.keys("sessionstatus:{c1}*"), "sessionstatus:session:{both}")
        with pytest.raises(NotFound):
            rig.plain.create_session(a_session("both", "c1"))
        assert rig.client.exists("chat:c2:both")
    finally:
        store.close()


# Calls whose answer was lost: done in Redis, and done again in memory


def lost(rig: Rig, store: FallbackStore, call: Callable[[], Any], after: int = 0) -> Any:
    """What a call gives that gets through to Redis, whose answer is lost; `after` so many steps that are answered."""
    rig.proxy.lose_next_answer(after=after)
    answer = call()
    assert rig.proxy.lost
    assert store.degraded
    rig.proxy.cut()
    return answer


def test_a_turn_whose_answer_was_lost_is_there_once(rig: Rig) -> None:
    store = rig.fallback()
    store.create_session(a_session())
    store.add_turns("s1", [Turn("user", "first")], {})
    assert store.session("s1") is not None
    added = lost(rig, store, lambda: store.add_turns("s1", [Turn("user", "second")], {"slot:a": "1"}))
    assert [turn.position for turn in added] == [1]
    store.add_turns("s1", [Turn("user", "third")], {})
    rig.proxy.mend()
    assert store.hand_over(10)
    turns = rig.plain.turns("s1", None, 10)
    assert turns is not None
    assert [turn.content for turn in turns] == ["first", "second", "third"]


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("late", [-50, 0, 5000])
def test_a_begin_whose_answer_was_lost_is_one_task_under_the_epoch_that_was_told(
    rig: Rig, attempt: int, late: int
) -> None:
    """A server that was stopped does it late, under an epoch that is past the one that was given here; or the clock
    here was ahead."""
    store = rig.fallback()
    first = begin(store)
    first.append(["a"])
    first.end("error", error_type="ValueError")
    ended_at = first.task.cursor
    rig.clock.move(100)
    store.snapshot("c1")
    store.session("s1")
    draft = a_task("t1" if attempt == 2 else "t2", attempt=attempt)
    store.ping()

    def again() -> Job:
        return begin(store, a_session(), draft)

    job = lost(rig, store, again, after=2)  # name and places first, then the script
    there = rig.plain.task("s1", draft.task_id)
    assert there is not None
    if late:
        record = rig.client.hget("sessionstatus:{c1}", f"task:{draft.task_id}")
        rig.client.hset(
            "sessionstatus:{c1}",
            f"task:{draft.task_id}",
            record.replace(str(there.epoch).encode(), str(there.epoch + late).encode()),
        )
        events = f"sessionstatus:{{c1}}:task:{draft.task_id}:events"
        known = rig.client.xrange(events)
        rig.client.delete(events)
        for key, fields in known:
            own = key.startswith(str(there.epoch).encode())
            rig.client.xadd(events, fields, f"{there.epoch + late}-1" if own else key)
    job.append(["x", "y"], base=job.tail, floor=job.tail)
    rig.proxy.mend()
    assert store.hand_over(10)
    job.append(["z"])
    cursors = [Cursor(job.epoch, n) for n in range(1, 4 + (attempt == 2))]
    page = rig.plain.events(job.ref, ended_at if attempt == 2 else Cursor(), 100)
    assert page is not None
    assert [event.cursor for event in page.events] == cursors
    assert (page.task.epoch, page.task.attempt, page.task.state) == (job.epoch, attempt, TaskState.RUNNING)
    tasks = rig.plain.tasks("s1", 10)
    assert tasks is not None
    assert len(tasks) == (1 if attempt == 2 else 2)
    assert job.end().verdict is Verdict.STORED


def test_a_session_whose_answer_was_lost_is_made_once_and_counted_once(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    for after in range(3):
        name = f"s{after}"
        rig.clock.move(1000)
        lost(rig, store, lambda name=name: store.create_session(a_session(name, "c1", metadata={"a": 1})), after)
        store.update_session(name, {"meta:b": "2"})
        rig.proxy.mend()
        assert store.hand_over(10)
        session = rig.plain.session(name)
        assert session is not None
        assert session.metadata == {"a": 1, "b": 2}
    assert store.totals().sessions_created == 3
    assert rig.plain.totals().sessions_created == 3
    assert len(rig.client.zrange("sessionstatus:namespace:{u1}", 0, -1)) == 3


def test_a_delete_whose_answer_was_lost_is_one(rig: Rig) -> None:
    store = rig.fallback()
    store.create_session(a_session())
    assert store.session("s1") is not None
    assert lost(rig, store, lambda: store.delete_session("s1"), after=1) is True
    rig.proxy.mend()
    assert store.hand_over(10)
    assert rig.plain.session("s1") is None
    with pytest.raises(NotFound):
        rig.plain.create_session(a_session())
    assert rig.client.zrange("sessionstatus:namespace:{u1}", 0, -1) == []


def test_a_tally_whose_answer_was_lost_counts_once(rig: Rig) -> None:
    store = rig.fallback()
    store.create_session(a_session())
    assert store.session("s1") is not None
    answers = lost(rig, store, lambda: store.tally([Tally("s1", {"count:a": 1}, "w", 1)]))
    assert answers == [True]
    for number in (2, 3, 4):
        store.tally([Tally("s1", {"count:a": 10}, "w", number)])
    rig.proxy.mend()
    assert store.hand_over(10)
    session = rig.plain.session("s1")
    assert session is not None
    assert session.counters == {"a": 31}


def test_an_append_whose_answer_was_lost_is_there_once(rig: Rig) -> None:
    store = rig.fallback()
    job = begin(store)
    assert store.snapshot("c1").tasks
    answer = lost(rig, store, lambda: job.append(["a"]))
    assert answer.verdict is Verdict.MISSING
    heal(job).append(["a", "b"], base=0)
    rig.proxy.mend()
    assert store.hand_over(10)
    assert job.append(["c"], base=2).verdict is Verdict.STORED
    assert job.texts() == ["a", "b", "c"]


# Conflicts


def test_a_newer_attempt_in_redis_fences(rig: Rig) -> None:
    store = rig.fallback()
    job = begin(store)
    with rig.outage(store):
        job.append(["a"])
        here = heal(job)
        here.append(["a", "b"], base=0)
        rig.clock.move(LEASE + 1)
        newer = begin(rig.plain, a_session(), a_task("t1", attempt=2))
        newer.append(["new"])
        here.end(result="1")
    assert job.append(["c"], base=2).verdict is Verdict.FENCED
    assert newer.texts() == ["attempt", "new"]
    assert (newer.task.attempt, newer.task.state) == (2, TaskState.RUNNING)


def test_of_two_who_took_up_the_same_attempt_the_later_epoch_stays(rig: Rig) -> None:
    store = rig.fallback()
    first = begin(store)
    first.end("error")
    store.snapshot("c1")
    with rig.outage(store):
        mine = begin(store, a_session(), a_task("t1", token="mine", attempt=2))
        mine.append(["mine"])
        rig.clock.move(10)
        theirs = begin(rig.plain, a_session(), a_task("t1", token="theirs", attempt=2))
        theirs.append(["theirs"])
    assert mine.append(["more"]).verdict is Verdict.FENCED
    assert theirs.texts(Cursor(theirs.epoch)) == ["attempt", "theirs"]


def test_an_end_in_redis_stays(rig: Rig) -> None:
    store = rig.fallback()
    job = begin(store)
    with rig.outage(store):
        job.append(["a"])
        here = heal(job)
        here.append(["a"], base=0)
        rig.plain.cancel(job.ref)
        rig.clock.move(LEASE + 1)
        stopped = rig.plain.cancel(job.ref)
        assert stopped is not None
        assert stopped.state is TaskState.CANCELLED
        here.end(result="1")
    assert rig.plain.task("s1", "t1").state is TaskState.CANCELLED  # type: ignore[union-attr]
    page = rig.plain.events(job.ref, Cursor(), 10)
    assert page is not None
    assert [event.type for event in page.events] == ["end"]


def test_a_stop_that_was_asked_for_in_redis_meanwhile_is_heard_afterwards(rig: Rig) -> None:
    store = rig.fallback()
    job = begin(store)
    with rig.outage(store):
        job.append(["a"])
        heal(job).append(["a"], base=0)
        rig.plain.cancel(job.ref)
    assert job.beat().cancel_requested_at is not None


def test_a_session_that_was_deleted_in_redis_stays_so(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    store = rig.fallback()
    job = begin(store, a_session("session-0123456789"))
    store.session("session-0123456789")
    with rig.outage(store):
        job.append(["a"])
        heal(job).append(["a"], base=0)
        store.add_turns("session-0123456789", [turn("x")], {})
        rig.plain.delete_session("session-0123456789")
    assert rig.plain.session("session-0123456789") is None
    assert job.append(["b"]).verdict is Verdict.DELETED
    text = logged(caplog.records)
    assert "Session session- was written here while Redis was away, and dropped: it was deleted." in text
    assert "session-0123456789" not in text


@pytest.mark.parametrize("what", ["the session", "the conversation"])
def test_what_is_somebody_elses_in_redis_is_dropped(rig: Rig, caplog: pytest.LogCaptureFixture, what: str) -> None:
    store = rig.fallback()
    store.ping()
    theirs = a_session("session-0123456789" if what == "the session" else "other", "c1", namespace_id="alice")
    rig.plain.create_session(theirs)
    rig.clock.move(1)
    with rig.outage(store):
        job = begin(store, a_session("session-0123456789", "c1", namespace_id="bob"))
        job.append(["a"])
        store.add_turns("session-0123456789", [turn("x")], {})
        store.create_session(a_session("fine", "c2", namespace_id="bob"))
    snapshot = rig.plain.snapshot("c1")
    assert [record.get("ns") for record in snapshot.sessions.values()] == ["alice"]
    assert snapshot.tasks == {}
    assert rig.plain.turns(theirs.session_id, None, 10) == []
    assert rig.plain.session("fine") is not None
    assert rig.client.zrange("sessionstatus:namespace:{bob}", 0, -1) == [b"fine c2"]
    assert "Session session- was written here while Redis was away, and dropped: it is somebody else's." in logged(
        caplog.records
    )


HOUR = 3_600_000


@pytest.mark.parametrize("own", [True, False], ids=["owned", "shared"])
@pytest.mark.parametrize("ahead", [-HOUR, HOUR])
def test_a_clock_that_is_wrong_gives_nobody_the_conversation_of_another(rig: Rig, own: bool, ahead: int) -> None:
    """This process began in the outage: Redis never told it what time it is."""
    owner = a_session("first", "c1", namespace_id="alice")
    running = begin(rig.plain, owner, a_task("t1"))
    rig.clock.move(1000)
    rig.proxy.cut()
    store = rig.fallback(ahead=ahead)
    begin(store, a_session("second", "c1", namespace_id="bob"), a_task("t2"), own=own)
    rig.clock.move(1000)
    rig.proxy.mend()
    assert store.hand_over(10)
    snapshot = rig.plain.snapshot("c1")
    assert owner_of(snapshot) == "alice"
    assert {name: record["created"] for name, record in snapshot.sessions.items()} == {
        "first": START,
        **({} if own else {"second": START + 1000}),
    }
    assert running.append(["mine still"]).verdict is Verdict.STORED
    # Nor in the next outage, before which nothing was read.
    with rig.outage(store):
        store.touch(["first", "second"])
    assert owner_of(rig.plain.snapshot("c1")) == "alice"


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_task_of_a_session_that_was_refused_does_not_make_it_afterwards(rig: Rig, name: str) -> None:
    """As if Redis had lost it: then it would be the older one, by the clock that is behind."""
    begin(rig.plain, a_session("first", "c1", namespace_id="alice"), a_task("t1")).append(["a"])
    rig.proxy.cut()
    store = rig.fallback(ahead=-HOUR)
    job = begin(store, a_session(name, "c1", namespace_id="bob"), a_task("t2"))
    rig.proxy.mend()
    assert store.hand_over(10)
    job.append(["b"])
    with pytest.raises(NotFound):
        heal(job)
    snapshot = rig.plain.snapshot("c1")
    assert (owner_of(snapshot), list(snapshot.sessions), list(snapshot.tasks)) == ("alice", ["first"], ["t1"])
    begin(rig.plain, a_session("first", "c1", namespace_id="alice"), a_task("t3"))


def test_what_was_made_in_an_outage_is_as_old_as_it_was_by_the_clock_of_redis(rig: Rig) -> None:
    rig.proxy.cut()
    store = rig.fallback(Limits(max_age=10 * HOUR), ahead=-20 * HOUR)
    job = begin(store)
    rig.clock.move(1000)
    job.end()
    rig.clock.move(1000)
    rig.proxy.mend()
    assert store.hand_over(10)
    session = rig.plain.session("s1")
    assert session is not None
    assert (session.created_at, session.last_activity) == (START, START + 1000)
    task = rig.plain.task("s1", "t1")
    assert task is not None
    assert (task.created_at, task.started_at, task.finished_at) == (START, START, START + 1000)
    assert task.epoch == job.epoch, "Clients have cursors of it."
    with rig.outage(store):
        known = store.session("s1")
        assert known is not None
        assert (known.created_at, known.last_activity) == (START, START + 1000)
        store.add_turns("s1", [turn("two")], {})
    session = rig.plain.session("s1")
    assert session is not None
    assert (session.created_at, session.last_activity) == (START, START + 2000)


def test_the_owner_whose_sessions_are_all_stowed_keeps_the_conversation(rig: Rig) -> None:
    names = [f"s{n:02}" for n in range(RECENT_SESSIONS + 16)]
    for name in names:
        rig.plain.create_session(a_session(name, "c1", namespace_id="alice"))
        rig.clock.move(1)
    stowed = rig.client.zrange("sessionstatus:{c1}:stowed", 0, -1)[0].decode()
    rig.clock.move(TTL // 2)
    rig.plain.touch([stowed])
    rig.clock.move(TTL // 2 + 1000)
    store = rig.fallback()
    store.ping()
    with rig.outage(store):
        store.create_session(a_session("other", "c1", namespace_id="bob"))
    assert list(rig.plain.snapshot("c1").sessions) == [stowed]


def test_where_conversations_have_no_owners_both_sessions_are_kept(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    rig.plain.create_session(a_session("s1", "c1", namespace_id="alice"))
    rig.clock.move(1)
    with rig.outage(store):
        store.create_session(a_session("s2", "c1", namespace_id="bob"), own=False)
    assert set(rig.plain.snapshot("c1").sessions) == {"s1", "s2"}


def test_a_session_that_was_there_and_not_known_keeps_its_own_fields(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    rig.plain.create_session(a_session("s1", "c1", language="fr", metadata={"a": 1}))
    rig.plain.add_turns("s1", [turn("there")], {})
    rig.clock.move(5)
    with rig.outage(store):
        store.create_session(a_session("s1", "c1", language="nl", metadata={"b": 2}))
        store.add_turns("s1", [turn("here")], {"meta:c": "3"})
    session = rig.plain.session("s1")
    assert session is not None
    assert (session.language, session.metadata, session.created_at) == ("fr", {"a": 1, "c": 3}, START)
    turns = rig.plain.turns("s1", None, 10)
    assert turns is not None
    assert [each.content for each in turns] == ["there", "here"]


def test_names_of_metadata_are_bounded_whoever_gave_them(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    store = rig.fallback()
    store.create_session(a_session(metadata={"gone": 1}))
    assert store.session("s1") is not None
    with rig.outage(store):
        store.update_session("s1", {"meta:gone": None, **{f"meta:here{n:03}": "1" for n in range(NAMES - 10)}})
        rig.plain.update_session("s1", {f"meta:there{n:03}": "2" for n in range(30)} | {"meta:here000": "2"})
    session = rig.plain.session("s1")
    assert session is not None
    names = [f"here{n:03}" for n in range(NAMES - 30)] + [f"there{n:03}" for n in range(30)]
    assert sorted(session.metadata) == names
    assert session.metadata["here000"] == 1
    assert "20 of them are dropped, above the maximum of 160." in logged(caplog.records)


def test_a_key_that_started_another_task_in_redis_meanwhile_stays_its(rig: Rig) -> None:
    store = rig.fallback()
    store.create_session(a_session())
    store.snapshot("c1")
    with rig.outage(store):
        begin(store, a_session(), a_task("t1", idempotency_key="once"))
        begin(rig.plain, a_session(), a_task("t2", idempotency_key="once"))
    with pytest.raises(AlreadyStarted) as found:
        begin(rig.plain, a_session(), a_task("t3", idempotency_key="once"))
    assert found.value.task.task_id == "t2"
    assert {task.task_id for task in rig.plain.tasks("s1", 10) or ()} == {"t1", "t2"}


def test_a_key_counts_as_long_as_its_task_lives_also_when_it_was_begun_in_the_outage(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    with rig.outage(store):
        job = begin(store, a_session(), a_task("t1", idempotency_key="once"))
    key = "sessionstatus:{c1}:key:once"
    rig.client.pexpire(key, 1000)
    there = Job(rig.plain, job.begun, job.session, job.draft)
    assert there.beat().verdict is Verdict.STORED
    assert rig.client.pttl(key) > LEASE
    assert lasting(rig) == []


def test_what_redis_alone_knows_of_a_task_is_kept(rig: Rig) -> None:
    for _ in range(5):
        rig.plain.record_duration("generation", 5000)
    store = rig.fallback()
    job = begin(store, a_session(), a_task("t1", idempotency_key="once"))
    job.append(["a"], change=Change(current=3, total=9, message="on", remaining=5000))
    there = json.loads(rig.client.hget("sessionstatus:{c1}", "task:t1"))
    assert there["past"] == [5000] * 5
    store.snapshot("c1")
    with rig.outage(store):
        assert job.append(["b"]).verdict is Verdict.MISSING
        healed = heal(job)
        healed.append(["a", "b"], base=0)
    record = json.loads(rig.client.hget("sessionstatus:{c1}", "task:t1"))
    assert there.keys() - record.keys() == set()
    kept = ("key", "past", "current", "total", "note", "remaining", "remaining_at", "started", "created")
    assert [record[name] for name in kept] == [there[name] for name in kept]


def test_a_ticket_in_a_queue_stays_as_long_as_redis_knew(rig: Rig) -> None:
    store = rig.fallback()
    queued = begin(store, a_session(), a_task("t1", pending=True, leased=False, delay=50_000))
    there = json.loads(rig.client.hget("sessionstatus:{c1}", "task:t1"))
    store.snapshot("c1")
    with rig.outage(store):
        heal(queued)
    record = json.loads(rig.client.hget("sessionstatus:{c1}", "task:t1"))
    assert record["ticket"] >= there["ticket"]


# A Redis that came back empty, or goes away again


def test_of_a_redis_that_came_back_empty_what_was_used_meanwhile_is_made_again(rig: Rig) -> None:
    store = rig.fallback()
    job = begin(store, a_session("s1", "c1", metadata={"a": 1}))
    store.add_turns("s1", [turn(f"before {n}") for n in range(5)], {"slot:x": "1"})
    store.create_session(a_session("s2", "c2"))
    for session_id in ("s1", "s2"):
        store.session(session_id)
    rig.proxy.cut()
    job.append(["a"])
    heal(job, metadata={"a": 1}).append(["a", "b"], base=0)
    store.add_turns("s1", [turn("meanwhile")], {})
    store.session("s2")
    rig.client.flushall()
    rig.clock.move(0)
    rig.proxy.mend()
    assert store.hand_over(10)
    session = rig.plain.session("s1")
    assert session is not None
    assert (session.metadata, session.current_slots, session.created_at) == ({"a": 1}, {"x": 1}, START)
    turns = rig.plain.turns("s1", None, 10)
    assert turns is not None
    assert [(each.content, each.position) for each in turns] == [
        *((f"before {n}", n) for n in range(5)),
        ("meanwhile", 5),
    ]
    assert job.texts() == ["a", "b"]
    assert rig.plain.session("s2") is None  # nothing was written of it


@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("upto", [0, 5, 12, 18, 24, 30, 36, 42, 48])
def test_a_redis_that_is_started_again_in_the_middle_gets_all_of_it(rig: Rig, empty: bool, upto: int) -> None:
    """Empty, it has lost what was handed over before it went away again."""
    store = rig.fallback()
    job = before(rig.plain, store)
    rig.proxy.cut()
    meanwhile(rig.clock, store, job)
    rig.proxy.lose_next_answer(after=upto)
    outage = store._switch.outage
    assert outage is not None

    def attempt() -> None:
        try:
            outage.hand_over.attempt(store._switch._end_outage)
        except StoreUnavailable:
            if not rig.proxy.lost:  # the circuit was still open: nothing was handed over yet
                raise

    with outage.trying:
        rig.proxy.mend()
        once_available(attempt)
        if rig.proxy.lost and store.degraded:
            if empty:
                rig.client.flushall()
                rig.clock.move(0)
        else:
            pytest.skip("It has fewer steps than that.")
    rig.proxy.lose_nothing()
    assert store.hand_over(10)
    found = everything(rig.plain)
    if empty:  # what ran elsewhere, and what nobody wrote, is gone with it
        for name in ("session s4", "tasks s4", "events t7", "session s5"):
            assert not found[name]
        session = found["session s1"]
        assert (session.metadata, session.counters["n"], session.message_count) == ({"b": 2, "c": 3}, 8, 3)
        assert [turn.content for turn in found["turns s1"]] == ["first", "second", "third"]
        assert [turn.content for turn in found["turns s2"]] == [f"new {n}" for n in range(300)]
        assert [event[2].get("text", event[1]) for event in found["events t1"]] == ["a", "b", "c", "end"]
        assert found["result t1"] == '{"n": 9}'
        assert (found["session s3"], found["session s6"]) == (None, None)
        with pytest.raises(NotFound):
            rig.plain.create_session(a_session("s3", "c3"))
    else:
        as_it_was_written(found, START)


def test_an_outage_after_the_other_knows_what_was_written_in_the_one_before(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    with rig.outage(store):
        store.create_session(a_session("s1", "c1", metadata={"a": 1}))
        store.add_turns("s1", [turn("one")], {})
    with rig.outage(store):
        session = store.session("s1")
        assert session is not None
        assert (session.metadata, session.message_count) == ({"a": 1}, 1)
        store.add_turns("s1", [turn("two")], {})
    turns = rig.plain.turns("s1", None, 10)
    assert turns is not None
    assert [(each.content, each.position) for each in turns] == [("one", 0), ("two", 1)]


def test_what_is_written_while_it_is_handed_over_is_handed_over_as_well(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    rig.proxy.cut()
    jobs = [begin(store, a_session(f"s{n}", f"c{n}"), a_task(f"t{n}")) for n in range(50)]
    for job in jobs:
        job.append([f"{n}" for n in range(20)])
    rig.proxy.mend()

    def write() -> None:
        for n in range(20, 60):
            for job in jobs[::5]:
                job.append([f"{n}"])

    def hand_over() -> None:
        assert store.hand_over(20)

    assert at_once(write, hand_over, write_turns(store)) == [None, None, None]
    assert store.hand_over(10)
    for number, job in enumerate(jobs):
        upto = 20 if number % 5 else 60
        page = rig.plain.events(job.ref, Cursor(), 1000)
        assert page is not None
        assert [event.data["text"] for event in page.events] == [f"{n}" for n in range(upto)]  # type: ignore[index,call-overload]
    turns = rig.plain.turns("s1", None, 1000)
    assert turns is not None
    assert [each.content for each in turns] == [f"turn {n}" for n in range(100)]


def test_writers_do_not_wait_for_all_the_steps_of_one_session(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    rig.proxy.cut()
    jobs = [begin(store, a_session(), a_task(f"t{n}")) for n in range(20)]
    outage = store._switch.outage
    assert outage is not None
    gate, hand_over = outage.gate, outage.hand_over
    held: list[float] = []
    take, hold, release = hand_over._restoring.task, gate.hold, gate.release
    answers = threading.Event()

    def slow(carried: Any) -> Any:
        answers.wait(0.2 if gate._held else 0)
        return take(carried)

    def note_hold(timeout: float) -> bool:
        for job in jobs:  # the last moment before writers wait
            job.append(["a"])
        held.append(time.monotonic())
        return hold(timeout)

    def note_release(*, shut: bool) -> None:
        held[-1] = time.monotonic() - held[-1]
        release(shut=shut)
        answers.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hand_over._restoring, "task", slow)
        patch.setattr(gate, "hold", note_hold)
        patch.setattr(gate, "release", note_release)
        rig.proxy.mend()
        assert store.hand_over(10)
    assert HOLD - 0.3 < held[0] < HOLD + 0.9, held
    assert len(held) > 1
    for job in jobs:
        page = whole_log(rig.plain, job.ref)
        assert page is not None
        assert len(page.events) == len(held)


def test_an_outage_ends_while_many_sessions_are_being_written(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    store = rig.fallback()
    store.ping()
    rig.proxy.cut()
    jobs = [begin(store, a_session(f"s{n}", f"c{n}"), a_task(f"t{n}")) for n in range(100)]
    rig.proxy.mend()
    ended = threading.Event()
    sent = 0

    def write() -> None:
        nonlocal sent
        while not ended.wait(0.01):
            appends = [Append(job.ref, 1, job.epoch, sent, 0, [("token", f'{{"n": {sent}}}')]) for job in jobs]
            for answer in store.append(appends):
                assert isinstance(answer, Answer)
                assert answer.verdict is Verdict.STORED
            sent += 1

    def hand_over() -> None:
        try:
            assert store.hand_over(40)
        finally:
            ended.set()

    assert at_once(write, hand_over) == [None, None]
    for job in jobs:
        page = whole_log(rig.plain, job.ref)
        assert page is not None
        assert [event.data for event in page.events] == [{"n": n} for n in range(sent)]
    assert "Redis is back: 100 sessions, 0 turns" in logged(caplog.records)


def write_turns(store: FallbackStore) -> Callable[[], None]:
    def write() -> None:
        for n in range(100):
            store.add_turns("s1", [turn(f"turn {n}")], {})

    return write


def test_what_is_refused_or_nowhere_in_an_outage_leaves_nothing_behind(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    with rig.outage(store):
        store.create_session(a_session("s0", "c1", namespace_id="owner"))
        outage = store._switch.outage
        assert outage is not None
        memory = outage.memory
        for n in range(20):
            store.tally([Tally("unknown", {"count:n": 1}, "w", n + 1)])
            with pytest.raises(SessionConflict):
                begin(store, a_session(f"s{n + 1}", "c1", namespace_id="other"))
            assert store.add_turns(f"nowhere {n}", [Turn("user", "x")], {}) is None
            assert store.touch([f"nowhere {n}"]) == [False]
        memory.holds()
        assert list(memory.unhanded) == ["s0"]
        assert list(memory._books) == ["s0"]
        assert len(memory.strays) + len(memory._later_strays) == 2


def test_what_is_counted_of_sessions_that_are_not_known_here_is_bounded(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    store = rig.fallback(Limits(max_sessions=2))
    for n in range(4):
        rig.plain.create_session(a_session(f"s{n}", f"c{n}"))
    store.ping()
    with rig.outage(store):
        for number in (1, 2):
            store.tally([Tally(f"s{n}", {"count:n": 1}, "w", number) for n in range(4)])
    counted = [session.counters for n in range(4) if (session := rig.plain.session(f"s{n}")) is not None]
    assert counted == [{"n": 2}, {"n": 2}, {}, {}]
    assert logged(caplog.records).count("What is counted of further sessions that are not known here is lost.") == 1


@pytest.mark.parametrize("lose", range(8))
def test_what_was_counted_of_a_session_that_is_not_known_here_counts_once(rig: Rig, lose: int) -> None:
    """Its first tally had got through; and the handing over loses an answer, after which more is counted."""
    store = rig.fallback()
    for session_id in ("s1", "s2"):
        rig.plain.create_session(a_session(session_id))
    store.ping()
    rig.proxy.lose_next_answer(after=1)
    store.tally([Tally("s1", {"count:n": 1}, "w", 1)])
    for number in range(2, 6):
        store.tally([Tally("s1", {"count:n": 1}, "w", number), Tally("s2", {"count:n": 1}, "w", number)])
    rig.proxy.mend()
    rig.proxy.lose_next_answer(after=lose)
    with suppress(StoreUnavailable):
        assert store.hand_over(0.0) is not None
    rig.proxy.cut()
    for number in range(6, 9):
        store.tally([Tally("s1", {"count:n": 1}, "w", number), Tally("s2", {"count:n": 1}, "w", number)])
    rig.proxy.mend()
    assert store.hand_over(10)
    for session_id, counted in (("s1", 8), ("s2", 7)):
        session = rig.plain.session(session_id)
        assert session is not None
        assert session.counters == {"n": counted}


def test_what_is_written_while_its_session_is_being_handed_over_is_not_left_behind(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is handed over between the moment in which the writer comes and its writing."""
    store = rig.fallback()
    store.ping()
    rig.proxy.cut()
    store.create_session(a_session())
    add = OutageMemory.add_turns

    def late(*args: Any) -> Any:
        rig.proxy.mend()
        until = time.monotonic() + 5
        while rig.plain.session("s1") is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        return add(*args)

    monkeypatch.setattr(OutageMemory, "add_turns", late)
    store.add_turns("s1", [Turn("user", "late")], {})
    assert store.hand_over(10)
    turns = rig.plain.turns("s1", None, 10)
    assert turns is not None
    assert [turn.content for turn in turns] == ["late"]


def test_a_batch_holds_at_most_500_events_and_256_kib(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    with rig.outage(store):
        job = begin(store)
        job.append([f"{n}" for n in range(1700)])
        big = begin(store, a_session("s2", "c2"), a_task("t2"))
        big.append([("blob", '"' + "x" * 60_000 + '"')] * 20)
        sent: list[tuple[int, int]] = []
        take = store._switch._redis.restoring.task

        def noting(carried: Any) -> Any:
            sent.append((len(carried.events), sum(len(event.json) for event in carried.events)))
            return take(carried)

        store._switch._redis.restoring.task = noting  # type: ignore[method-assign]
    page = whole_log(job.store, job.ref)
    assert page is not None
    assert len(page.events) == 1700
    assert len(big.numbers()) == 20
    assert max(count for count, _ in sent) == 500
    assert max(size for _, size in sent) <= 262_144


# Bounds


def test_what_has_not_been_handed_over_is_not_evicted_and_a_full_store_says_so(rig: Rig) -> None:
    store = rig.fallback(Limits(max_sessions=5))
    for n in range(5):
        store.create_session(a_session(f"old{n}", f"o{n}"))
        store.session(f"old{n}")
    with rig.outage(store):
        for n in range(5):
            assert store.session(f"old{n}") is not None  # adopted: these may go
        for n in range(5):
            store.create_session(a_session(f"new{n}", f"n{n}"))
        with pytest.raises(StoreFull):
            store.create_session(a_session("one too many", "n9"))
        with pytest.raises(StoreFull):
            begin(store, a_session("another", "n9"))
        assert all(store.session(f"new{n}") is not None for n in range(5))
    assert all(rig.plain.session(f"new{n}") is not None for n in range(5))
    assert all(rig.plain.session(f"old{n}") is not None for n in range(5))
    store.create_session(a_session("one more", "n9"))


def test_what_waits_to_be_deleted_in_redis_is_bounded(rig: Rig) -> None:
    store = rig.fallback(Limits(max_sessions=3))
    names = ["there", "new", "newer", "one too many", "the last"]
    store.create_session(a_session(names[0], names[0]))
    store.session(names[0])
    with rig.outage(store):
        for name in names[1:3]:
            store.create_session(a_session(name, name))
        for name in names[:3]:
            assert store.delete_session(name)
        store.create_session(a_session(names[3], names[3]))
        with pytest.raises(StoreFull, match="3 deleted sessions wait for Redis"):
            store.delete_session(names[3])
        assert store.session(names[3]) is not None
        rig.plain.touch([names[0]])
        rig.clock.move(Limits().session_ttl - 1000)
        rig.plain.touch([names[0]])  # another process keeps it alive
        rig.clock.move(1000)  # of those that Redis never knew nothing can come back from here on
        store.create_session(a_session(names[4], names[4]))
        assert store.delete_session(names[4])
        deleted = store._switch.outage.memory.deleted  # type: ignore[union-attr]
        assert set(deleted) == {names[0], names[4]}
    assert [rig.plain.session(name) for name in names] == [None] * 5
    for name in (names[0], names[4]):
        with pytest.raises(NotFound):
            rig.plain.create_session(a_session(name, name))


def test_an_id_whose_deletion_is_long_over_can_be_used_again_in_the_outage(rig: Rig) -> None:
    store = rig.fallback()
    store.create_session(a_session("s1", "c1"))
    store.session("s1")
    with rig.outage(store):
        assert store.delete_session("s1")
        rig.clock.move(Limits().session_ttl + 1)
        store.create_session(a_session("s1", "c1"))
        store.add_turns("s1", [turn("again")], {})
    turns = rig.plain.turns("s1", None, 10)
    assert turns is not None
    assert [each.content for each in turns] == ["again"]


# What happens between two passes


def between_passes(store: FallbackStore, happens: Callable[[], object]) -> None:
    """Let something happen once, when all that was written so far has been handed over, and more is to follow."""
    hand_over = store._switch.outage.hand_over  # type: ignore[union-attr]
    take = hand_over._pass

    def first_pass() -> bool:
        done = take()
        hand_over._pass = take  # type: ignore[method-assign]
        happens()
        return done

    hand_over._pass = first_pass  # type: ignore[method-assign]


def test_a_session_that_lives_longer_by_then_keeps_its_name_and_place_as_long(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    with rig.outage(store):
        store.create_session(a_session("s1", "c1", for_socket=True))
        between_passes(store, lambda: store.touch(["s1"]))
    rig.clock.move(Limits().connect_deadline + 1000)
    session = rig.direct().session("s1")
    assert session is not None
    assert rig.client.zscore("sessionstatus:namespace:{u1}", "s1 c1") == session.expires_at


def test_an_id_that_is_another_sessions_by_then_is_found_where_that_is(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()

    def expires_and_is_made_elsewhere() -> None:
        rig.clock.move(Limits().connect_deadline + 1)
        store.create_session(a_session("s1", "c2"))

    with rig.outage(store):
        store.create_session(a_session("s1", "c1", for_socket=True))
        between_passes(store, expires_and_is_made_elsewhere)
    session = rig.direct().session("s1")
    assert session is not None
    assert session.conversation_id == "c2"


def test_what_was_handed_over_to_a_redis_that_is_emptied_then_is_handed_over_again(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()

    def is_emptied() -> None:
        rig.client.flushall()
        rig.clock.move(0)
        store.update_session("s1", {"meta:a": "1"})

    with rig.outage(store):
        ended = begin(store, a_session(), a_task("t1"))
        ended.append(["a"])
        ended.end()
        running = begin(store, a_session(), a_task("t2"))
        running.append(["b"])
        store.add_turns("s1", [turn("one")], {})
        between_passes(store, is_emptied)
    for job, texts in ((ended, ["a", "end"]), (running, ["b"])):
        page = whole_log(rig.plain, job.ref)
        assert page is not None
        assert [event.data.get("text", event.type) for event in page.events] == texts
    session = rig.plain.session("s1")
    assert session is not None
    assert (session.metadata, session.message_count) == ({"a": 1}, 1)


# Refusals


def test_a_queued_task_that_was_deleted_in_an_outage_is_not_made_again_by_its_ticket(rig: Rig) -> None:
    """The ticket counts for longer than a tombstone on a session stands."""
    store = rig.fallback()
    store.ping()
    ticket = a_task(pending=True, leased=False)
    with rig.outage(store):
        begun = begin(store, a_session(), ticket).begun
        assert store.delete_session("s1")
    rig.clock.move(Limits().max_pending_age - 1000)
    with pytest.raises(NotFound):
        rig.plain.begin(a_session(), replace(ticket, epoch=begun.epoch, created_at=begun.task_created_at), own=False)


def test_an_id_that_was_deleted_elsewhere_meanwhile_is_dropped_in_any_conversation(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    store = rig.fallback()
    store.ping()
    with rig.outage(store):
        rig.plain.create_session(a_session("s1", "c2"))
        assert rig.plain.delete_session("s1")
        rig.clock.move(Limits().session_ttl - 5000)
        job = begin(store, a_session("s1", "c1"))
    rig.clock.move(6000)  # the name is free again
    with pytest.raises(NotFound):
        heal(job)
    assert rig.plain.session("s1") is None
    assert rig.plain.snapshot("c1").sessions == {}
    assert "dropped: it was deleted." in logged(caplog.records)


def test_a_store_that_refuses_keeps_what_was_written_waiting(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    rig.proxy.cut()
    store.create_session(a_session())
    rig.client.config_set("maxmemory", 1)
    try:
        rig.proxy.mend()
        assert not store.hand_over(0.5)
        assert store.degraded
        assert store.session("s1") is not None
    finally:
        rig.client.config_set("maxmemory", 0)
    assert store.hand_over(10)
    assert rig.plain.session("s1") is not None


def test_a_session_that_cannot_be_stored_does_not_keep_the_others_back(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    store = rig.fallback()
    store.ping()
    with rig.outage(store):
        store.create_session(a_session("session-0123456789", "c1"))
        store.create_session(a_session("s2", "c2"))
        store.create_session(a_session("s3", "c3"))
        store.delete_session("s3")
        for conversation_id in ("c1", "c3"):
            rig.client.set(f"sessionstatus:{{{conversation_id}}}", "no hash")
    assert rig.plain.session("s2") is not None
    for conversation_id in ("c1", "c3"):
        rig.client.delete(f"sessionstatus:{{{conversation_id}}}")
    text = logged(caplog.records)
    assert "Session session- could not be handed over, and is lost" in text
    assert "session-0123456789" not in text


def test_events_that_the_outbox_has_let_go_are_handed_over_from_memory(rig: Rig) -> None:
    """The memory keeps as many as Redis does, whatever the outbox holds."""
    store = rig.fallback()
    job = begin(store)
    rig.proxy.cut()
    job.append(["0"])
    here = heal(job)
    for start in range(0, 3000, 500):
        here.append([f"{n}" for n in range(start, start + 500)], base=start, floor=max(0, start - 100))
    rig.proxy.mend()
    assert store.hand_over(10)
    page = whole_log(job.store, job.ref)
    assert page is not None
    assert [event.cursor.number for event in page.events] == list(range(1, 3001))


def test_the_answer_of_a_store_that_is_away_again_in_the_last_step_changes_nothing(rig: Rig) -> None:
    """Writers are let in again, and what they write is handed over at the next attempt."""
    store = rig.fallback()
    store.ping()
    rig.proxy.cut()
    store.create_session(a_session())
    outage = store._switch.outage
    assert outage is not None
    take = outage.hand_over._restoring.session

    def cut_in_the_last_step(carried: Any, **options: Any) -> str:
        if outage.gate._held:
            rig.proxy.cut()
        return take(carried, **options)

    outage.hand_over._restoring.session = cut_in_the_last_step  # type: ignore[method-assign]
    first_pass = outage.hand_over._pass

    def then_write() -> bool:
        done = first_pass()
        if not outage.gate._held:
            store.add_turns("s1", [turn("between")], {})
        return done

    outage.hand_over._pass = then_write  # type: ignore[method-assign]
    rig.proxy.mend()
    with pytest.raises(StoreUnavailable):
        store._switch._try_to_end(outage)
    assert store.degraded
    assert not outage.gate._held
    store.add_turns("s1", [turn("after")], {})
    outage.hand_over._restoring.session = take  # type: ignore[method-assign]
    outage.hand_over._pass = first_pass  # type: ignore[method-assign]
    rig.proxy.mend()
    assert once_available(lambda: store.hand_over(10))
    turns = rig.plain.turns("s1", None, 10)
    assert turns is not None
    assert [each.content for each in turns] == ["between", "after"]


def test_an_append_of_no_known_task_is_missing(rig: Rig) -> None:
    store = rig.fallback()
    with rig.outage(store):
        answers = store.append([Append(TaskRef("c", "s", "t"), 1, 1, 0, 0)])
        assert answers[0].verdict is Verdict.MISSING  # type: ignore[union-attr]


def test_a_lease_that_ran_out_elsewhere_counts_as_live_as_long_as_nobody_can_ask(rig: Rig) -> None:
    store = rig.fallback()
    foreign = begin(rig.plain)
    foreign.append(["a"])
    dead = begin(rig.plain, a_session("s2", "c2"), a_task("t2"))
    store.snapshot("c1")
    store.snapshot("c2")
    rig.clock.move(LEASE - 1)
    foreign.beat()
    store.snapshot("c1")
    rig.clock.move(2)
    assert store.snapshot("c2").task("t2").state is TaskState.LOST
    with rig.outage(store):
        store.ping()
        rig.clock.move(LEASE * 3)
        assert store.snapshot("c1").task("t1").state is TaskState.RUNNING
        assert store.snapshot("c2").task(dead.ref.task_id).state is TaskState.LOST


def test_a_server_that_is_replaced_between_two_batches_gets_those_before_as_well(rig: Rig) -> None:
    """A primary that was demoted took the first ones; a hole would be a gap to everybody who follows."""
    store = rig.fallback()
    job = begin(store)
    job.append([f"{n}" for n in range(100)])
    record = rig.client.dump("sessionstatus:{c1}:task:t1:events")
    rig.proxy.cut()
    job.append(["?"])
    heal(job).append([f"{n}" for n in range(2000)], base=0)
    outage = store._switch.outage
    assert outage is not None
    restoring = outage.hand_over._restoring
    take, calls = restoring.task, []

    def replaced_after_two_batches(carried: Any) -> Any:
        calls.append(carried)
        if len(calls) == 4:
            rig.client.restore("sessionstatus:{c1}:task:t1:events", 60_000, record, replace=True)
        return take(carried)

    restoring.task = replaced_after_two_batches  # type: ignore[method-assign]
    rig.proxy.mend()
    assert store.hand_over(10)
    assert len(calls) > 4
    page = whole_log(rig.plain, job.ref)
    assert page is not None
    assert [event.cursor.number for event in page.events] == list(range(1, 2001))
