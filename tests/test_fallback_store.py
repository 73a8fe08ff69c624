"""While Redis is away a process goes on from its own memory, with what it knew of Redis."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis
from fallbacks import Rig
from harness import LUA_CLOCK, START, a_session, a_task, at_once, begin, heal, logged
from servers import Silent

from flask_sessionstatus.errors import AlreadyStarted, NotFound, SessionConflict, StoreUnavailable
from flask_sessionstatus.models import Cursor, TaskState, Turn
from flask_sessionstatus.stores import Limits, Store, store_from_uri
from flask_sessionstatus.stores.base import Append, End, TaskRef
from flask_sessionstatus.stores.fallback import FallbackStore
from flask_sessionstatus.stores.fallback.gate import Gate
from flask_sessionstatus.stores.fallback.known import KEPT_TASKS, KEPT_TURNS
from flask_sessionstatus.stores.fallback.mirror import Mirror
from flask_sessionstatus.stores.redis import RedisStore, connect
from flask_sessionstatus.streaming.outbox import Outbox
from flask_sessionstatus.streaming.rest import Rest

LEASE = Limits().lease
TTL = Limits().session_ttl


@pytest.fixture
def rig(redis_url: Callable[[str], str]) -> Iterator[Rig]:
    rig = Rig(redis_url("newest"))
    yield rig
    rig.close()


def contents(store: Store, session_id: str = "s1") -> list[str]:
    turns = store.turns(session_id, None, 1000)
    assert turns is not None
    return [turn.content for turn in turns]


# When it switches


def test_the_call_that_finds_redis_away_is_answered_from_memory(rig: Rig) -> None:
    store = rig.fallback()
    store.create_session(a_session("s1", "c1"))
    assert store.session("s1") is not None
    rig.proxy.cut()
    assert not store.degraded
    session = store.session("s1")
    assert session is not None
    assert store.degraded
    assert store.recovering


def test_of_those_who_ask_a_silent_redis_nobody_waits_longer_than_for_one_call() -> None:
    with Silent(b"") as silent:
        store = store_from_uri(silent.url, Limits(), fallback=True)

        def ask(number: int) -> float:
            began = time.monotonic()
            store.add_turns(f"s{number}", [Turn("user", "x")], {})
            store.create_session(a_session(f"s{number}", f"c{number}"))
            assert store.session(f"s{number}") is not None
            return time.monotonic() - began

        took = at_once(*(lambda number=number: ask(number) for number in range(60)))
        assert max(took) < 2
        began = time.monotonic()
        store.snapshot("c1")
        assert time.monotonic() - began < 0.1
        store.close()


def test_it_starts_without_a_redis_and_hands_over_once_there_is_one(rig: Rig) -> None:
    rig.proxy.cut()
    store = rig.fallback()
    job = begin(store)
    job.append(["a"])
    rig.proxy.mend()
    assert store.hand_over(10)
    assert job.append(["b"]).number == 2
    assert job.texts() == ["a", "b"]
    assert rig.plain.task("s1", "t1") is not None


def test_it_hands_over_by_itself_within_a_second(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    rig.proxy.cut()
    store.create_session(a_session())
    rig.proxy.mend()
    until = time.monotonic() + 2
    while store.degraded:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert rig.plain.session("s1") is not None


@pytest.mark.parametrize("refusal", ["maxmemory", "wrong type", "login"])
def test_a_redis_that_refuses_is_not_away(rig: Rig, refusal: str) -> None:
    store = rig.fallback()
    store.ping()
    if refusal == "maxmemory":
        rig.client.config_set("maxmemory", 1)
    elif refusal == "wrong type":
        rig.client.set("sessionstatus:{c1}", "no hash")
    else:
        rig.client.config_set("requirepass", "other")
        store = rig.fallback()
    try:
        with pytest.raises(Exception) as raised:  # noqa: PT011 - of which kind is asked below
            store.create_session(a_session())
        assert isinstance(raised.value, StoreUnavailable) or refusal == "wrong type"
        assert not store.degraded
    finally:
        if refusal == "maxmemory":
            rig.client.config_set("maxmemory", 0)
        if refusal == "login":
            with redis.Redis.from_url(rig.url, password="other") as client:
                client.config_set("requirepass", "")


@pytest.mark.parametrize(
    "error", ["LOADING Redis is loading", "READONLY You can't write", "CLUSTERDOWN The cluster is down"]
)
def test_a_redis_that_cannot_serve_yet_is_away(error: str) -> None:
    with Silent(f"-{error}\r\n".encode() * 50) as server:
        store = store_from_uri(server.url, Limits(), fallback=True)
        store.create_session(a_session())
        assert store.degraded
        store.close()


def test_a_crowd_before_redis_is_no_outage(rig: Rig) -> None:
    store = FallbackStore(RedisStore(connect(rig.url, {"max_connections": 1, "timeout": 0.05}), Limits()))
    node = store._switch._redis._calls.servers._node  # type: ignore[attr-defined]
    held = node._take()
    try:
        with pytest.raises(StoreUnavailable, match="Too many"):
            store.ping()
        assert not store.degraded
    finally:
        node.give_back(held)
        store.close()


# What it says in the log


def test_the_log_says_when_it_switches_and_when_it_is_back_once_each_and_no_secret(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = FallbackStore(RedisStore(connect(rig.proxy.url.replace("://", "://user:secret@"), {}), Limits()))
    rig.client.execute_command("ACL", "SETUSER", "user", "on", ">secret", "~*", "&*", "+@all")
    try:
        store.ping()
        for _ in range(3):
            rig.proxy.cut()
            store.create_session(a_session("session-0123456789", "conversation-0123456789"))
            store.create_session(a_session("s2"))
            rig.proxy.mend()
            assert store.hand_over(10)
    finally:
        rig.client.execute_command("ACL", "DELUSER", "user")
        store.close()
    text = logged(caplog.records)
    assert text.count("Redis is away (") == 1
    assert text.count("Redis is back: 2 sessions, 0 turns and 0 events were handed over.") == 1
    assert "apart from all other processes" in text
    for secret in ("secret", "session-0123456789", "conversation-0123456789"):
        assert secret not in text + caplog.text


def test_what_is_lost_with_the_process_is_said_loudly(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    store = rig.fallback()
    store.ping()
    rig.proxy.cut()
    job = begin(store)
    job.append(["a", "b"])
    store.add_turns("s1", [Turn("user", "x")], {})
    assert not store.hand_over(0.3)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "in 1 sessions is lost with this process, 1 turns and 2 events among it" in record.getMessage()


# What is known


def test_a_session_of_before_is_there_with_all_that_was_known_of_it(rig: Rig) -> None:
    store = rig.fallback()
    draft = a_session("s1", "c1", metadata={"a": 1}, device_type="web", client_version="3", language="de", key="digest")
    store.create_session(draft)
    for n in range(100):
        store.add_turns("s1", [Turn("user", f"turn {n}")], {"slot:n": str(n), "template": "tpl"})
    before = store.session("s1")
    assert before is not None
    with rig.outage(store):
        session = store.session("s1")
        assert session == before
        assert contents(store) == [f"turn {n}" for n in range(100 - KEPT_TURNS, 100)]
        (added,) = store.add_turns("s1", [Turn("user", "now")], {}) or ()
        assert added.position == 100
        assert store.update_session("s1", {"meta:b": "2"})
        rig.clock.move(7)
        changed = store.session("s1")
        assert changed is not None
        assert (changed.metadata, changed.message_count, changed.seen_at) == ({"a": 1, "b": 2}, 101, START + 7)
        assert [each.session_id for each in store.sessions("u1", 10, None).sessions] == ["s1"]
        job = begin(store)
        assert job.task.state is TaskState.RUNNING
    assert len(contents(rig.plain)) == 101


def test_turns_that_were_not_seen_are_unknown_and_not_none(rig: Rig) -> None:
    store = rig.fallback()
    rig.plain.create_session(a_session())
    rig.plain.add_turns("s1", [Turn("user", f"turn {n}") for n in range(3)], {})
    session = store.session("s1")
    assert session is not None
    assert session.message_count == 3
    with rig.outage(store):
        with pytest.raises(StoreUnavailable):
            store.turns("s1", None, 50)
        added = store.add_turns("s1", [Turn("user", "now")], {})
        assert added is not None
        for before, limit in ((None, 50), (None, 2), (3, 1)):
            with pytest.raises(StoreUnavailable):
                store.turns("s1", before, limit)
        assert [turn.content for turn in store.turns("s1", None, 1) or ()] == ["now"]
        assert store.turns("s1", 0, 10) == []
    assert contents(rig.plain) == ["turn 0", "turn 1", "turn 2", "now"]


def test_of_a_session_of_which_the_last_turn_alone_was_read_no_more_is_said(rig: Rig) -> None:
    store = rig.fallback()
    rig.plain.create_session(a_session())
    rig.plain.add_turns("s1", [Turn("user", f"turn {n}") for n in range(3)], {})
    assert store.session("s1") is not None
    assert store.turns("s1", None, 1) is not None
    with rig.outage(store):
        assert [turn.content for turn in store.turns("s1", None, 1) or ()] == ["turn 2"]
        with pytest.raises(StoreUnavailable):
            store.turns("s1", None, 2)


def test_what_came_before_the_last_turns_is_unknown(rig: Rig) -> None:
    store = rig.fallback(Limits(max_turns=90))
    store.create_session(a_session())
    for n in range(100):
        store.add_turns("s1", [Turn("user", f"turn {n}")], {})
    assert store.session("s1") is not None
    with rig.outage(store):
        first = 100 - KEPT_TURNS
        assert len(store.turns("s1", first + 5, 50) or ()) == 5
        with pytest.raises(StoreUnavailable):
            store.turns("s1", first, 50)
        assert store.turns("s1", 10, 50) == []  # these are kept no longer


def test_a_session_that_was_read_by_itself_shows_the_task_that_it_was_read_with(rig: Rig) -> None:
    store = rig.fallback()
    begin(rig.plain)
    before = store.session("s1")
    assert before is not None
    assert before.latest_task is not None
    with rig.outage(store):
        session = store.session("s1")
        assert session is not None
        assert session.status == before.status == "active"
        assert session.latest_task is not None
        assert session.latest_task.epoch == before.latest_task.epoch


def test_owners_are_checked_as_before(rig: Rig) -> None:
    store = rig.fallback()
    store.create_session(a_session("s1", "c1", namespace_id="alice"))
    store.snapshot("c1")
    with rig.outage(store):
        with pytest.raises(SessionConflict):
            begin(store, a_session("s1", "c1", namespace_id="bob"))
        with pytest.raises(SessionConflict):
            store.create_session(a_session("s2", "c1", namespace_id="bob"))
        assert store.sessions("bob", 10, None).sessions == []


def test_what_neither_knows_is_nowhere_and_that_is_not_said_of_it(rig: Rig) -> None:
    store = rig.fallback()
    store.ping()
    rig.plain.create_session(a_session())
    with rig.outage(store):
        assert store.session("s1") is None
        assert store.recovering
        for call in (
            lambda: store.claim(TaskRef("c1", "s1", "t1"), "w"),
            lambda: store.claimed(TaskRef("c1", "s1", "t1"), "w"),
            lambda: store.find_task("t1"),
        ):
            with pytest.raises(StoreUnavailable):
                call()
    assert store.session("s1") is not None


def test_a_session_of_which_only_the_status_was_seen_shows_its_status_alone(rig: Rig) -> None:
    store = rig.fallback()
    begin(rig.plain)
    store.snapshot("c1")
    with rig.outage(store):
        snapshot = store.snapshot("c1")
        assert snapshot.task("t1").state is TaskState.RUNNING
        assert store.session("s1") is None
        assert store.turns("s1", None, 10) is None
        assert store.add_turns("s1", [Turn("user", "x")], {}) is None
        assert store.sessions("u1", 10, None).sessions == []
        job = begin(store, a_session(), a_task("t2"))
        job.append(["a"])
    assert rig.plain.tasks("s1", 10) is not None
    assert {task.task_id for task in rig.plain.tasks("s1", 10) or ()} == {"t1", "t2"}


def test_what_is_begun_in_a_session_of_which_only_the_status_was_seen_does_not_make_it_known(rig: Rig) -> None:
    """It would be told with no turns and the language of the draft, in this outage and in the next."""
    store = rig.fallback()
    rig.plain.create_session(a_session("s1", "c1", language="de", metadata={"m": 1}))
    rig.plain.add_turns("s1", [Turn("user", "a"), Turn("user", "b")], {"slot:x": "1"})
    store.snapshot("c1")
    with rig.outage(store):
        job = begin(store, a_session(), a_task("t1"))
        job.append(["a"])
        assert store.snapshot("c1").task("t1").state is TaskState.RUNNING
        assert store.session("s1") is None
        assert store.turns("s1", None, 10) is None
        assert store.sessions("u1", 10, None).sessions == []
        assert store.add_turns("s1", [Turn("user", "c")], {"slot:y": "2"}) is not None
        assert store.session("s1") is None
    there = rig.plain.session("s1")
    assert there is not None
    assert (there.language, there.metadata, there.current_slots) == ("de", {"m": 1}, {"x": 1, "y": 2})
    assert contents(rig.plain) == ["a", "b", "c"]
    with rig.outage(store):
        assert store.session("s1") is None
        assert store.turns("s1", None, 10) is None
    assert store.session("s1") == rig.plain.session("s1")
    with rig.outage(store):
        session = store.session("s1")
        assert session is not None
        assert (session.language, session.message_count) == ("de", 3)


def test_a_task_of_another_process_is_as_it_was_seen_and_its_events_cannot_be_read(rig: Rig) -> None:
    store = rig.fallback()
    foreign = begin(rig.plain)
    foreign.append(["a"])
    done = begin(rig.plain, a_session("s1"), a_task("t2"))
    done.end(result="1", traceback="…")
    store.snapshot("c1")
    store.session("s1")
    with rig.outage(store):
        store.ping()
        rig.clock.move(4 * LEASE)
        task = store.task("s1", "t1")
        assert task is not None
        assert (task.state, task.tail) == (TaskState.RUNNING, 1)
        assert store.can_follow(foreign.ref) is False
        for call in (
            lambda: store.events(foreign.ref, Cursor(), 10),
            lambda: store.events(done.ref, Cursor(), 10),
            lambda: store.result("s1", "t2"),
            lambda: store.traceback("s1", "t2"),
            lambda: store.claim(foreign.ref, "w"),
        ):
            with pytest.raises(StoreUnavailable):
                call()
        stopped = store.cancel(foreign.ref)
        assert stopped is not None
        assert stopped.state is TaskState.RUNNING
        # There it goes on meanwhile.
        foreign.append(["b"])
        foreign.end(result="2")
    assert store.can_follow(foreign.ref)
    assert foreign.texts() == ["a", "b", "end"]
    assert store.result("s1", "t1") == "2"


@pytest.mark.parametrize("by", ["a page", "a hint"])
def test_a_task_that_was_followed_up_to_the_outage_is_shown_as_running(rig: Rig, by: str) -> None:
    """Whoever follows asks for no status; what he gets says that it lives."""
    store = rig.fallback()
    foreign = begin(rig.plain)
    store.snapshot("c1")
    rig.clock.move(2 * LEASE)
    foreign.append(["a"])
    if by == "a page":
        assert store.events(foreign.ref, Cursor(), 10) is not None
    else:
        record = rig.client.hget("sessionstatus:{c1}", "task:t1")
        hint = b"\n".join([str(rig.clock.now).encode(), record, b"0-0"])
        assert store.hinted(foreign.ref, hint) is not None
    rig.clock.move(10)
    with rig.outage(store):
        task = store.snapshot("c1").task("t1")
        assert task.state is TaskState.RUNNING


@pytest.mark.parametrize("seen", ["begun", "read", "claimed again", "read before the claim"])
def test_a_task_of_a_queue_that_is_worked_on_here_is_worked_on_through_an_outage(rig: Rig, seen: str) -> None:
    """It waited under another epoch and token than it has since a worker of this process claimed it."""
    store = rig.fallback()
    first = store if seen == "begun" else rig.plain
    queued = begin(first, a_session(), a_task("t1", pending=True, leased=False))
    rig.clock.move(5)
    assert store.session("s1") is not None
    late = rig.fallback()
    claimed = (late if seen == "read before the claim" else store).claim(queued.ref, "worker")
    assert claimed is not None
    if seen == "claimed again":
        assert store.claimed(queued.ref, "worker") is not None
    draft = replace(queued.draft, token="worker", attempt=claimed.attempt, pending=False, leased=True)
    outbox = Outbox(store)
    session = replace(queued.session, created_at=claimed.session_created_at)
    entry = outbox.open(session, replace(draft, created_at=claimed.task_created_at), claimed.epoch, claimed.tail)
    outbox.emit(entry, "number", "1", 1)
    assert outbox.flush(entry, 5)
    with rig.outage(store):
        outbox.emit(entry, "number", "2", 1)
        assert outbox.flush(entry, 5)
        assert store.degraded
        task = store.task("s1", "t1")
        assert task is not None
        assert (task.state, task.epoch) == (TaskState.RUNNING, claimed.epoch)
    outbox.end(entry, End("completed"), '{"state": "completed"}')
    assert outbox.flush(entry, 5)
    page = rig.plain.events(queued.ref, Cursor(claimed.epoch), 10)
    assert page is not None
    assert [event.json for event in page.events[:-1]] == ["1", "2"]
    assert page.task.state is TaskState.COMPLETED
    outbox.close(1)


def test_a_task_that_was_claimed_here_is_known_as_it_runs(rig: Rig) -> None:
    store = rig.fallback()
    queued = begin(store, a_session(), a_task("t1", pending=True, leased=False))
    rig.clock.move(5)
    claimed = store.claim(queued.ref, "worker")
    assert claimed is not None
    with rig.outage(store):
        task = store.snapshot("c1").task("t1")
        assert (task.state, task.epoch, task.started_at) == (TaskState.RUNNING, claimed.epoch, START + 5)


def test_a_task_of_which_no_end_was_seen_counts_as_running_however_long_ago_it_was_seen(rig: Rig) -> None:
    store = rig.fallback()
    foreign = begin(rig.plain)
    lost = begin(rig.plain, a_session(), a_task("t2"))
    rig.clock.move(2 * LEASE)
    foreign.beat()
    assert store.snapshot("c1").task("t2").state is TaskState.LOST
    for _ in range(3):
        rig.clock.move(LEASE)
        foreign.beat()
    with rig.outage(store):
        snapshot = store.snapshot("c1")
        assert snapshot.task("t1").state is TaskState.RUNNING
        assert snapshot.task("t2").state is TaskState.LOST  # as it was seen
        assert store.can_follow(lost.ref) is False


@pytest.mark.parametrize("state", ["completed", "error", "cancelled", "pending"])
def test_a_task_that_was_ended_here_is_known_to_have_ended(rig: Rig, state: str) -> None:
    store = rig.fallback()
    job = begin(store)
    rig.clock.move(10)
    if state == "completed":
        job.end(result="1")
    elif state == "error":
        job.end("error", error_type="ValueError", error_message="no")
    elif state == "cancelled":
        job.append(end=End("cancelled", forced=True))
    else:
        job.append(end=End("pending", wait=600_000))
    there = rig.plain.task("s1", "t1")
    assert there is not None
    rig.clock.move(4 * LEASE)
    with rig.outage(store):
        task = store.snapshot("c1").task("t1")
        assert task.state.value == state
        assert (task.attempt, task.finished_at) == (there.attempt, there.finished_at)
        assert (task.error_type, task.error_message) == (there.error_type, there.error_message)
        assert task.result_available == there.result_available
        assert store.snapshot("c1").is_live(store.snapshot("c1").tasks["t1"]) == (state == "pending")


def test_a_task_that_was_stopped_before_it_began_is_known_to_have_ended(rig: Rig) -> None:
    store = rig.fallback()
    job = begin(store, a_session(), a_task("t1", pending=True))
    job.cancel()
    with rig.outage(store):
        assert store.snapshot("c1").task("t1").state is TaskState.CANCELLED


def test_a_task_of_ours_that_somebody_else_ended_is_not_told_as_running(rig: Rig) -> None:
    store = rig.fallback()
    job = begin(store)
    rig.plain.append([Append(job.ref, 1, job.epoch, 0, 0, end=End("cancelled", forced=True))])
    assert job.append(["a"]).verdict == "closed"
    with rig.outage(store):
        assert not any(map(store.snapshot("c1").is_live, store.snapshot("c1").tasks.values()))


def test_an_end_is_not_forgotten_for_what_was_read_before_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    store = rig.fallback()
    job = begin(store)
    early = rig.plain.snapshot("c1")
    session = rig.plain.session("s1")
    page = rig.plain.events(job.ref, Cursor(), 10)
    assert page is not None
    assert page.task.state is TaskState.RUNNING
    job.end()
    for name, read in (("snapshot", early), ("session", session), ("events", page)):
        with monkeypatch.context() as late:
            late.setattr(store._store, name, lambda *_, read=read: read)
            getattr(store, name)(*{"snapshot": ["c1"], "session": ["s1"], "events": [job.ref, Cursor(), 10]}[name])
    with rig.outage(store):
        assert store.snapshot("c1").task("t1").state is TaskState.COMPLETED


def test_what_replaces_a_task_that_runs_elsewhere_does_not_wait_for_it_and_for_one_that_runs_here_does(
    rig: Rig,
) -> None:
    store = rig.fallback()
    foreign = begin(rig.plain, a_session(), a_task("foreign"))
    own = begin(store, a_session(), a_task("own"))
    queued = begin(rig.plain, a_session(), a_task("claimed", pending=True, leased=False))
    store.snapshot("c1")
    assert store.claim(queued.ref, "worker") is not None
    with rig.outage(store):
        begun = store.begin(a_session(), a_task("t1"), "replace")
        assert set(begun.stopping) == {"own", "claimed"}
        ticket = a_task("t2", pending=True, leased=False)
        assert set(store.begin(a_session(), ticket, "replace").stopping) == {"own", "claimed", "t1"}
        claimed = store.claim(TaskRef("c1", "s1", "t2"), "worker")
        assert claimed is not None
        assert set(claimed.stopping) == {"own", "claimed", "t1"}
        heal(own).end("cancelled")
        again = store.claim(TaskRef("c1", "s1", "t2"), "worker")
        assert again is not None
        assert set(again.stopping) == {"claimed", "t1"}
    assert foreign.task.cancel_requested_at is not None


def test_a_used_key_of_before_gives_its_first_task(rig: Rig) -> None:
    store = rig.fallback()
    begin(store, a_session(), a_task("t1", idempotency_key="once"))
    with rig.outage(store), pytest.raises(Exception, match="used before") as raised:
        begin(store, a_session(), a_task("t2", idempotency_key="once"))
    assert raised.value.task.task_id == "t1"  # type: ignore[attr-defined]


def test_a_key_that_another_process_used_is_known_once_its_task_was_seen(rig: Rig) -> None:
    store = rig.fallback()
    begin(rig.plain, a_session(), a_task("t1", idempotency_key="once"))
    store.snapshot("c1")
    with rig.outage(store), pytest.raises(AlreadyStarted) as raised:
        begin(store, a_session("s2", "c1"), a_task("t2", idempotency_key="once"))
    assert raised.value.task is not None
    assert raised.value.task.task_id == "t1"


@pytest.mark.parametrize("first", ["t1", "t2"])
def test_of_two_tasks_that_a_key_has_started_the_later_one_is_its(rig: Rig, first: str) -> None:
    store = rig.fallback()
    second = "t1" if first == "t2" else "t2"
    begin(store, a_session(), a_task(first, idempotency_key="once")).end()
    store.snapshot("c1")
    rig.client.delete("sessionstatus:{c1}:key:once")  # it has had its time, and its session lives on
    begin(rig.plain, a_session("s2", "c1"), a_task(second, idempotency_key="once"))
    assert set(store.snapshot("c1").tasks) == {"t1", "t2"}
    with rig.outage(store), pytest.raises(AlreadyStarted) as raised:
        begin(store, a_session(), a_task("t3", idempotency_key="once"))
    assert raised.value.task is not None
    assert raised.value.task.task_id == second


def test_a_task_that_ended_is_known_though_no_status_shows_it_any_more(rig: Rig) -> None:
    """Of a session a status shows the tasks that live and the latest."""
    store = rig.fallback()
    begin(store, a_session(), a_task("t1", idempotency_key="once")).end()
    begin(store, a_session(), a_task("t2"))
    assert set(store.snapshot("c1").tasks) == {"t2"}
    with rig.outage(store):
        assert [task.task_id for task in store.tasks("s1", 10) or ()] == ["t2", "t1"]
        with pytest.raises(AlreadyStarted) as raised:
            begin(store, a_session(), a_task("t3", idempotency_key="once"))
    assert raised.value.task is not None
    assert raised.value.task.state is TaskState.COMPLETED


def test_a_deleted_session_is_deleted_and_known_as_such(rig: Rig) -> None:
    store = rig.fallback()
    job = begin(store)
    store.session("s1")
    with rig.outage(store):
        assert store.delete_session("s1")
        assert store.session("s1") is None
        with pytest.raises(NotFound):
            store.create_session(a_session())
        with pytest.raises(NotFound):
            store.events(job.ref, Cursor(), 10)
        assert job.append(["x"]).verdict == "deleted"
    assert rig.plain.session("s1") is None


@pytest.mark.parametrize("read", ["snapshot", "session", "sessions", "begin"])
def test_a_session_that_was_read_before_its_end_and_told_after_it_stays_deleted(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    store = rig.fallback()
    rig.plain.create_session(a_session())
    assert store.session("s1") is not None
    draft = a_task()
    asked: dict[str, tuple[Any, ...]] = {
        "snapshot": ("c1",),
        "session": ("s1",),
        "sessions": ("u1", 10, None),
        "begin": (a_session(), draft),
    }
    early = getattr(rig.plain, read)(*asked[read])
    assert store.delete_session("s1")
    with monkeypatch.context() as late:
        late.setattr(store._store, read, lambda *_: early)
        getattr(store, read)(*asked[read])
    with rig.outage(store):
        assert store.snapshot("c1").sessions == {}
        assert store.session("s1") is None
        assert store.sessions("u1", 10, None).sessions == []


def test_a_session_that_was_deleted_in_an_outage_is_not_known_in_the_next(rig: Rig) -> None:
    store = rig.fallback()
    store.create_session(a_session())
    assert store.session("s1") is not None
    with rig.outage(store):
        assert store.delete_session("s1")
    assert rig.plain.session("s1") is None
    with rig.outage(store):
        assert store.session("s1") is None
        assert store.snapshot("c1").sessions == {}


def test_a_session_that_is_made_again_long_after_its_end_is_known(rig: Rig) -> None:
    store = rig.fallback()
    store.create_session(a_session())
    assert store.delete_session("s1")
    rig.clock.move(TTL + 1)
    begin(store)
    with rig.outage(store):
        assert store.session("s1") is not None


# Time


def test_the_memory_goes_by_the_time_of_redis_and_epochs_go_on(rig: Rig) -> None:
    """Redis says that it is 2024; this machine knows better, and is not asked."""
    wall = lambda: time.time_ns() // 1_000_000  # noqa: E731
    made = RedisStore(connect(rig.proxy.url, {}), Limits(), clock=LUA_CLOCK)
    store = FallbackStore(made, wall=wall)
    job = begin(store)
    job.end()
    now = store.snapshot("c1").now
    assert abs(now - START) < 60_000
    with rig.outage(store):
        later = begin(store, a_session(), a_task("t2"))
        assert job.epoch < later.epoch < START + 60_000
        assert abs(store.snapshot("c1").now - START) < 60_000
        session = store.session("s1")
        assert session is not None
        assert abs(session.created_at - START) < 60_000
    assert later.task.epoch == later.epoch
    again = begin(rig.plain, a_session(), a_task("t3"))
    assert again.epoch > later.epoch
    store.close()


def test_an_epoch_that_was_seen_is_passed_even_if_the_clock_stands_behind_it(rig: Rig) -> None:
    store = rig.fallback()
    begin(rig.plain, a_session(), a_task("t1", epoch=START + 90_000, created_at=START))
    store.snapshot("c1")
    with rig.outage(store):
        assert begin(store, a_session(), a_task("t2")).epoch > START + 90_000


# Wake-ups


def test_whoever_listens_hears_of_both_and_looks_at_everything_when_it_switches(rig: Rig) -> None:
    store = rig.fallback()
    job = begin(store)
    heard: list[tuple[str, bytes | None]] = []
    woken = threading.Event()

    def on_wakeup(channel: str, hint: bytes | None) -> None:
        heard.append((channel, hint))
        woken.set()

    wakeups = store.wakeups(on_wakeup)
    wakeups.watch(store.channel(job.ref))

    def wait_for(what: tuple[str, bytes | None]) -> None:
        until = time.monotonic() + 5
        while what not in heard:
            assert woken.wait(max(0.0, until - time.monotonic())), (what, heard)
            woken.clear()

    wait_for(("", None))
    heard.clear()
    rig.proxy.cut()
    job.append(["a"])
    wait_for(("", None))
    here = heal(job)
    heard.clear()
    here.append(["a"], base=0)
    wait_for((store.channel(job.ref), None))
    heard.clear()
    rig.proxy.mend()
    assert store.hand_over(10)
    wait_for(("", None))
    wakeups.close()


def test_whoever_begins_to_listen_while_an_outage_begins_hears_once_and_nothing_after_closing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = rig.fallback()
    store.ping()
    heard: list[str] = []
    listening: list[Any] = []
    turn = store._switch._turn

    def late() -> None:
        if not listening:
            listening.append(store.wakeups(lambda channel, _: heard.append(channel)))
            listening[0].watch(store.session_channel("c1", "s1"))
        turn()

    monkeypatch.setattr(store._switch, "_turn", late)
    rig.proxy.cut()
    store.create_session(a_session())
    heard.clear()
    job = begin(store)
    assert heard.count(store.session_channel("c1", "s1")) == 1
    (wakeups,) = listening
    wakeups.watch(store.channel(job.ref))
    wakeups.close()
    heard.clear()
    job.append(["a"])
    assert heard == []


def test_a_gate_that_is_held_opens_when_the_waiting_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    assert gate.enter()

    def broken_off(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(gate._changed, "wait", broken_off)
        with pytest.raises(KeyboardInterrupt):
            gate.hold(1)
    entered = threading.Thread(target=gate.enter, daemon=True)
    entered.start()
    entered.join(2)
    assert not entered.is_alive()


# The mirror


def test_the_mirror_is_bounded_by_sessions() -> None:
    mirror = Mirror(10)
    memory = store_from_uri("memory://", Limits())
    for n in range(30):
        memory.create_session(a_session(f"s{n}", f"c{n}"))
        mirror.saw(memory.snapshot(f"c{n}"))
        session = memory.session(f"s{n}")
        assert session is not None
        mirror.saw_session(session)
    assert len(list(mirror.of(None))) == 10
    assert len(mirror._where) == 10
    assert mirror.where("s29") == "c29"
    mirror.forget("s29")
    assert mirror.conversation("c29") is None
    for n in range(20):
        memory.create_session(a_session(f"many{n}", "many"))
    mirror.saw(memory.snapshot("many"))  # more sessions than are kept: as if not seen
    assert mirror.conversation("many") is None
    assert len(mirror._where) <= 10


def test_the_mirror_keeps_no_more_turns_than_it_may() -> None:
    mirror = Mirror(10)
    memory = store_from_uri("memory://", Limits())
    memory.create_session(a_session())
    session = memory.session("s1")
    assert session is not None
    mirror.saw_session(session)
    for _ in range(200):
        turns = memory.add_turns("s1", [Turn("user", "x" * 100)], {})
        assert turns is not None
        mirror.saw_turns("s1", turns, latest=True)
    assert [turn.position for turn in mirror.turns("s1")] == list(range(200 - KEPT_TURNS, 200))
    turns = memory.add_turns("s1", [Turn("user", "x" * 2_000_000)], {})
    assert turns is not None
    mirror.saw_turns("s1", turns, latest=True)
    assert mirror.turns("s1") == ()


def test_the_mirror_keeps_of_a_conversation_that_only_begins_tasks_the_latest_and_those_that_live(rig: Rig) -> None:
    store = rig.fallback()
    running = begin(store, a_session(), a_task("runs", idempotency_key="key of runs"))
    for n in range(3 * KEPT_TASKS):
        begin(store, a_session(), a_task(f"t{n}", idempotency_key=f"key {n}")).end()
        if n % 40 == 0:
            rig.clock.move(LEASE // 2)
            running.beat()
    known = store._mirror.conversation("c1")
    assert known is not None
    assert KEPT_TASKS <= len(known.tasks) <= 2 * KEPT_TASKS
    assert len(known.keys) <= 2 * KEPT_TASKS
    assert known.tasks["runs"]["state"] == "running"
    with rig.outage(store):
        for key in ("key of runs", f"key {3 * KEPT_TASKS - 1}"):
            with pytest.raises(AlreadyStarted):
                begin(store, a_session(), a_task("new", idempotency_key=key))


def test_the_mirror_keeps_no_session_that_has_expired(rig: Rig) -> None:
    store = rig.fallback()
    for n in range(5):
        begin(store, a_session(f"s{n}", "c1"), a_task(f"t{n}", idempotency_key=f"key {n}")).end()
        rig.clock.move(TTL - 1)
    known = store._mirror.conversation("c1")
    assert known is not None
    assert list(known.sessions) == ["s3", "s4"]
    assert list(known.tasks) == ["t3", "t4"]
    assert list(known.keys) == ["key 3", "key 4"]
    assert store._mirror.where("s2") is None


@pytest.mark.parametrize("of", ["execute", "pipeline"])
def test_nothing_more_is_asked_of_redis_for_the_mirrors_sake(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    def calls(store: Store, redis_store: Any) -> int:
        servers = redis_store._calls.servers
        counted: list[Any] = []
        call = getattr(servers, of)
        monkeypatch.setattr(servers, of, lambda *args: counted.append(args) or call(*args))
        job = begin(store, a_session("s1", "c1"), a_task("t1"))
        job.append(["a"])
        store.add_turns("s1", [Turn("user", "x")], {"slot:a": "1"})
        store.session("s1")
        store.snapshot("c1")
        store.turns("s1", None, 10)
        store.sessions("u1", 10, None)
        job.beat()
        job.end()
        return len(counted)

    store = rig.fallback()
    found = []
    for each, redis_store in ((rig.plain, rig.plain), (rig.direct(), None), (store, store._switch._redis)):
        rig.client.flushall()
        rig.clock.move(0)
        found.append(calls(each, redis_store or each))
    _, plain, with_mirror = found  # the first has the scripts loaded
    assert with_mirror == plain > 0


def test_what_is_stored_only_in_memory_is_left_to_the_process_that_watches_over_this_one(rig: Rig) -> None:
    """A process that ends at once, such as RQ's work-horse, cannot wait for Redis; its parent can."""
    store = rig.fallback()
    session, task = a_session(), a_task()
    begun = store.begin(session, task)
    session = replace(session, created_at=begun.session_created_at)
    child, parent = Outbox(store), Outbox(rig.plain)
    entry, watched = (each.open(session, task, begun.epoch, begun.tail) for each in (child, parent))
    rig.proxy.cut()
    for number in range(3):
        child.emit(entry, "number", str(number), 1)
    child.end(entry, End("completed", result="3"), '{"state": "completed"}')
    assert child.flush(entry, 5)
    assert store.degraded
    rest = child.hand_over(entry)
    assert rest is not None
    store.close()
    parent.take_over(watched, Rest.parse(str(rest)))
    assert parent.flush(watched, 5)
    page = rig.plain.events(entry.ref, Cursor(), 10)
    assert page is not None
    assert [event.json for event in page.events[:-1]] == ["0", "1", "2"]
    assert page.task.state is TaskState.COMPLETED
    for each in (child, parent):
        each.close(1)


def test_nothing_is_left_to_another_process_of_what_redis_has(rig: Rig) -> None:
    store = rig.fallback()
    session, task = a_session(), a_task()
    begun = store.begin(session, task)
    outbox = Outbox(store)
    entry = outbox.open(session, task, begun.epoch, begun.tail)
    outbox.end(entry, End("completed"), '{"state": "completed"}')
    assert outbox.flush(entry, 5)
    assert outbox.hand_over(entry) is None
    outbox.close(1)
