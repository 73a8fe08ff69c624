"""What is kept of one conversation or session is bounded where each step would have to go through it; see bounds.py."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from contract.test_contract_places import listed
from harness import LEASE_MS, Clock, Kind, a_session, a_task, begin, heal, logged

from flask_sessionstatus.errors import (
    AlreadyStarted,
    ConversationFull,
    InvalidValue,
    NamespaceFull,
    NotFound,
    SessionConflict,
    TaskRunning,
)
from flask_sessionstatus.models import ORIGIN, Cursor, TaskState, Turn
from flask_sessionstatus.sessions import current_session, owner_of
from flask_sessionstatus.stores.base import End, Limits, Store, Tally, TaskRef, Verdict
from flask_sessionstatus.stores.bounds import COUNTERS, LIVE_TASKS, NAMES, RECENT_FIELDS, RECENT_SESSIONS, STEP, TASKS

TTL = Limits().session_ttl
MANY = RECENT_SESSIONS + 20


def many_sessions(store: Store, clock: Clock, count: int = MANY) -> list[str]:
    """Idle sessions of one conversation, the oldest first, each a ms after the one before."""
    names = [f"s{number:03}" for number in range(count)]
    for name in names:
        clock.tick()
        store.create_session(a_session(name))
    return names


def shown(store: Store) -> str | None:
    """The session that `active-session` shows."""
    current = current_session(store.snapshot("c1"))
    return current.session_id if current is not None else None


# Sessions of a conversation


def test_of_very_many_sessions_the_recent_are_seen_and_every_one_lives(store: Store, clock: Clock) -> None:
    names = many_sessions(store, clock)
    assert shown(store) == names[-1]
    seen = store.snapshot("c1").sessions
    assert len(seen) == RECENT_SESSIONS
    assert set(seen) == {names[0], *names[-(RECENT_SESSIONS - 1) :]}
    assert [name for name in names if store.session(name) is None] == []
    assert listed(store) == names[::-1]


def test_a_session_that_is_not_recent_is_read_and_written_as_any(store: Store, clock: Clock) -> None:
    names = many_sessions(store, clock)
    old = names[1]
    clock.move(10)
    assert store.update_session(old, {"meta:a": "1"})
    stored = store.add_turns(old, [Turn("user", "hello", turn_id="1")], {})
    assert stored is not None
    assert store.turns(old, None, 10) == stored
    assert store.tally([Tally(old, {"count:a": 2}, "w1", 1)]) == [True]
    assert store.touch([old]) == [True]
    session = store.session(old)
    assert session is not None
    assert (session.metadata, session.message_count, session.counters) == ({"a": 1}, 1, {"a": 2})
    assert (session.last_activity, session.expires_at) == (clock.now, clock.now + TTL)
    assert listed(store)[0] == old
    assert shown(store) == names[-1], "Neither turns nor metadata make it the most recent."


def test_a_task_brings_its_session_back(store: Store, clock: Clock) -> None:
    names = many_sessions(store, clock)
    old = names[1]
    job = begin(store, a_session(old))
    assert shown(store) == old
    job.append(["a"])
    clock.move(10)
    job.end(result="1")
    for number in range(MANY):
        clock.tick()
        store.create_session(a_session(f"later {number}"))
    assert shown(store) == old, "It has the latest epoch."
    for number in range(MANY):
        clock.tick()
        begin(store, a_session(f"later {number}"), a_task(f"later {number}")).end()
    assert old not in store.snapshot("c1").sessions
    session = store.session(old)
    assert session is not None
    assert session.latest_task is not None
    assert (session.latest_task.task_id, session.latest_task.state) == ("t1", TaskState.COMPLETED)
    assert session.status.value == "completed"
    assert store.result(old, "t1") == "1"
    assert [task.task_id for task in store.tasks(old, 10) or ()] == ["t1"]
    assert job.texts() == ["a", "end"]


def test_where_the_recent_sessions_are_deleted_others_take_their_places(store: Store, clock: Clock) -> None:
    names = many_sessions(store, clock)
    for name in names[:0:-1]:
        assert shown(store) == name
        assert store.delete_session(name)
    assert shown(store) == names[0]
    store.delete_session(names[0])
    assert shown(store) is None
    assert store.snapshot("c1").sessions == {}


def test_where_the_recent_sessions_expire_older_ones_that_live_on_are_seen(store: Store, clock: Clock) -> None:
    names = many_sessions(store, clock)
    clock.move(TTL - 1000)
    for name in (names[1], names[3]):
        store.touch([name])
    clock.move(2000)
    assert shown(store) == names[3]
    assert set(store.snapshot("c1").sessions) == {names[1], names[3]}
    with pytest.raises(SessionConflict):
        store.create_session(a_session("other", namespace_id="u2"))
    begin(store, a_session("new"))
    assert shown(store) == "new"
    clock.move(2 * TTL)
    assert shown(store) is None


def test_a_conversation_stays_its_owners_however_many_sessions_it_gets(store: Store, clock: Clock) -> None:
    names = many_sessions(store, clock)
    clock.move(TTL - 1000)
    store.touch([names[1]])
    clock.move(2000)
    for attempt in (lambda: store.create_session(a_session("x", namespace_id="u2")),):
        with pytest.raises(SessionConflict):
            attempt()
    assert owner_of(store.snapshot("c1")) == "u1"
    with pytest.raises(SessionConflict):
        begin(store, a_session(names[1], namespace_id="u2"))
    store.delete_session(names[1])
    store.create_session(a_session("x", namespace_id="u2"))
    assert owner_of(store.snapshot("c1")) == "u2"


def test_tasks_that_were_lost_come_back_wherever_their_sessions_are(store: Store, clock: Clock) -> None:
    jobs = []
    for number in range(MANY):
        clock.tick()
        jobs.append(begin(store, a_session(f"s{number:03}"), a_task(f"t{number:03}")))
    clock.move(LEASE_MS + 1)
    many_sessions(store, clock, 5)
    for number in range(MANY):
        clock.tick()
        begin(store, a_session(f"later {number}"), a_task(f"later {number}")).end()
    assert "s010" not in store.snapshot("c1").sessions
    assert jobs[10].task.state is TaskState.LOST
    assert jobs[10].append(["a"]).verdict is Verdict.STORED
    assert shown(store) == "s010"
    assert store.snapshot("c1").task("t010").state is TaskState.RUNNING
    assert jobs[20].beat().verdict is Verdict.STORED
    for job in jobs:
        assert job.append([], end=End("completed")).verdict is Verdict.STORED
    assert all(job.task.state is TaskState.COMPLETED for job in jobs)
    assert len(store.snapshot("c1").sessions) <= RECENT_SESSIONS + 8


def test_what_is_made_again_after_a_loss_is_bounded_too(make_store: Callable[..., Store], kind: Kind) -> None:
    store = make_store()
    jobs = [
        begin(store, a_session(f"s{half}-{number}", f"c{half}"), a_task(f"t{half}-{number}"))
        for half in range(3)
        for number in range(LIVE_TASKS)
    ]
    if kind.client is None:
        store = make_store()
    else:
        kind.client.delete(*kind.client.keys("sessionstatus:*"))
    for job in jobs:
        job.store = store
        job.ref = TaskRef("c1", job.ref.session_id, job.ref.task_id)
        job.session = a_session(job.ref.session_id, "c1")
        heal(job)
    assert all(job.append(["a"], base=0).verdict is Verdict.STORED for job in jobs)
    if kind.client is not None:
        assert kind.client.hlen("sessionstatus:{c1}") <= STEP
    assert all(job.end().verdict is Verdict.STORED for job in jobs)
    assert all(job.texts() == ["a", "end"] for job in jobs)


# Tasks


def test_a_conversation_has_so_many_live_tasks_and_no_more(store: Store, clock: Clock) -> None:
    jobs = [begin(store, a_session(f"s{n % 3}"), a_task(f"t{n}")) for n in range(LIVE_TASKS)]
    with pytest.raises(ConversationFull) as full:
        begin(store, a_session("s9"), a_task("more"))
    assert full.value.ids == {"sessionId": "s9", "conversationId": "c1"}
    assert full.value.retry_after > 0
    assert store.session("s9") is None
    with pytest.raises(ConversationFull):
        begin(store, a_session("s9"), a_task("more"), if_running="replace")
    assert all(job.task.cancel_requested_at is None for job in jobs), "Nothing was changed."
    with pytest.raises(TaskRunning):
        begin(store, a_session("s9"), a_task("more"), if_running="reject")
    jobs[0].end()
    begin(store, a_session("s9"), a_task("more"))
    clock.move(LEASE_MS)
    begin(store, a_session("s9"), a_task("after the others were lost"))


def test_all_live_tasks_are_seen_however_many_sessions_they_are_in(store: Store, clock: Clock) -> None:
    many_sessions(store, clock)
    jobs = []
    for n in range(LIVE_TASKS):
        clock.tick()
        jobs.append(begin(store, a_session(f"live {n}"), a_task(f"t{n}")))
    snapshot = store.snapshot("c1")
    assert {task_id for task_id, task in snapshot.tasks.items() if snapshot.is_live(task)} == {
        f"t{n}" for n in range(LIVE_TASKS)
    }
    with pytest.raises(ConversationFull):
        begin(store, a_session("one more"), a_task("one more"))
    assert [job.beat().verdict for job in jobs] == [Verdict.STORED] * LIVE_TASKS
    assert begin(store, a_session("live 0"), a_task("t0", token="retried", attempt=2)).begun.attempt == 2
    for job in jobs[1:]:
        job.end()
    new = begin(store, a_session("new"), a_task("new"), if_running="replace")
    assert new.begun.stopping == ["t0"]
    assert owner_of(store.snapshot("c1")) == "u1"
    assert "s000" in store.snapshot("c1").sessions


def test_waiting_tasks_that_are_replaced_make_room(store: Store) -> None:
    for n in range(LIVE_TASKS):
        begin(store, task=a_task(f"t{n}", pending=True, leased=False))
    job = begin(store, task=a_task("new"), if_running="replace")
    assert job.task.state is TaskState.RUNNING
    assert {task.state for task in store.tasks("s1", STEP) or ()} == {TaskState.RUNNING, TaskState.CANCELLED}


def test_of_a_session_so_many_tasks_are_kept(store: Store, clock: Clock) -> None:
    running = begin(store, task=a_task("running"))
    jobs = []
    for n in range(TASKS + 10):
        clock.tick()
        jobs.append(begin(store, task=a_task(f"t{n}")))
        jobs[-1].append(["a"], end=None)
        jobs[-1].end()
        if n % 100 == 0:
            running.beat()
    kept = [task.task_id for task in store.tasks("s1", 10_000) or ()]
    assert kept == [*(f"t{n}" for n in range(TASKS + 9, 10, -1)), "running"]
    assert running.append(["x"]).verdict is Verdict.STORED
    gone = jobs[5]
    assert store.task("s1", "t5") is None
    assert gone.beat().verdict is Verdict.DELETED
    with pytest.raises(NotFound):
        store.events(gone.ref, ORIGIN, 10)
    with pytest.raises(NotFound):
        heal(gone)
    assert store.delete_session("s1")
    assert running.beat().verdict is Verdict.DELETED
    assert jobs[-1].beat().verdict is Verdict.DELETED


def test_a_ticket_brings_back_no_task_that_was_let_go(store: Store, clock: Clock) -> None:
    waiting = begin(store, task=a_task("waiting", pending=True, leased=False))
    waiting.cancel()
    for n in range(TASKS):
        clock.tick()
        begin(store, task=a_task(f"t{n}")).end()
    assert store.task("s1", "waiting") is None
    clock.move(Limits().max_pending_age - 5000)
    with pytest.raises(NotFound):
        heal(waiting)


def test_a_page_holds_so_many_events(store: Store) -> None:
    job = begin(store)
    job.append(str(n) for n in range(500))
    page = job.page(limit=500)
    assert page is not None
    assert len(page.events) == STEP
    assert job.numbers(Cursor(job.epoch, STEP)) == list(range(STEP + 1, 501))


# Turns, names, counters


def test_turns_of_several_pages_are_read_as_one(store: Store) -> None:
    store.create_session(a_session())
    for first in range(0, 1000, 250):
        added = [Turn("user", str(n), turn_id=str(n)) for n in range(first, first + 250)]
        assert store.add_turns("s1", added, {}) is not None
    for before, limit, expected in (
        (None, 10**9, range(1000)),
        (700, 300, range(400, 700)),
        (1000, 256, range(744, 1000)),
    ):
        turns = store.turns("s1", before, limit)
        assert turns is not None
        assert [turn.position for turn in turns] == list(expected)
        assert [turn.content for turn in turns] == [str(n) for n in expected]


def test_more_turns_than_a_step_takes_are_refused(store: Store) -> None:
    store.create_session(a_session())
    many = [Turn("user", str(n), turn_id=str(n)) for n in range(STEP)]
    with pytest.raises(InvalidValue) as refused:
        store.add_turns("s1", [*many, Turn("user", "more", turn_id="more")], {})
    assert set(refused.value.errors) == {"messages"}
    assert store.turns("s1", None, 1) == []
    assert len(store.add_turns("s1", many, {}) or ()) == STEP


def test_metadata_and_slots_have_so_many_names_together(store: Store) -> None:
    store.create_session(a_session(metadata={f"m{n}": n for n in range(NAMES // 2)}))
    assert store.update_session("s1", {f"slot:{n}": "1" for n in range(NAMES // 2)})
    for more in ({"meta:more": "1"}, {"slot:more": "1", "meta:m0": "7"}):
        with pytest.raises(InvalidValue) as refused:
            store.update_session("s1", more)
        assert set(refused.value.errors) == {"metadata"}
    with pytest.raises(InvalidValue) as refused:
        store.add_turns("s1", [Turn("user", "x", turn_id="1")], {"slot:more": "1"})
    assert set(refused.value.errors) == {"slots"}
    assert store.turns("s1", None, 1) == []
    assert store.update_session("s1", {"meta:m0": "7", "language": "de", "template": "x"})
    assert store.update_session("s1", {"meta:m1": None, "slot:more": "1"})
    session = store.session("s1")
    assert session is not None
    assert len(session.metadata) + len(session.current_slots) == NAMES
    assert (session.metadata["m0"], session.language, session.current_slots["more"]) == (7, "de", 1)


def test_a_session_has_so_many_counters(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.create_session(a_session(metadata={f"m{n}": n for n in range(NAMES)}))
    for n in range(COUNTERS):
        assert store.tally([Tally("s1", {f"count:c{n}": 1, "accesses": 1}, "w1", n + 1)]) == [True]
    with caplog.at_level(logging.WARNING):
        assert store.tally([Tally("s1", {"count:more": 1, "count:c0": 1}, "w2", 1)]) == [True]
        assert store.tally([Tally("s1", {f"count:x{n}": 1 for n in range(1000)}, "w2", 2)]) == [True]
    session = store.session("s1")
    assert session is not None
    assert session.counters == {"c0": 2, **{f"c{n}": 1 for n in range(1, COUNTERS)}}
    assert session.access_count == COUNTERS
    assert "too many counters" in logged(caplog.records)


def test_however_many_processes_count_a_session_stays_as_it_is(store: Store, kind: Kind) -> None:
    store.create_session(a_session())
    for n in range(300):
        for _ in range(2):  # a call that was taken for lost may have got through
            assert store.tally([Tally("s1", {"accesses": 1}, f"process {n}", 1)]) == [True]
    session = store.session("s1")
    assert session is not None
    assert session.access_count == 300
    if kind.client is not None:
        assert kind.client.hlen("sessionstatus:{c1}:session:s1") < 10


# Idempotency keys


def test_the_key_of_a_deleted_session_is_free(store: Store, clock: Clock) -> None:
    store.create_session(a_session("s2"))
    begin(store, task=a_task("t1", idempotency_key="k"))
    with pytest.raises(AlreadyStarted):
        begin(store, a_session("s2"), a_task("t2", idempotency_key="k"))
    store.delete_session("s1")
    assert begin(store, a_session("s2"), a_task("t2", idempotency_key="k")).task.state is TaskState.RUNNING
    with pytest.raises(AlreadyStarted) as again:
        begin(store, a_session("s2"), a_task("t3", idempotency_key="k"))
    assert again.value.task.task_id == "t2"


def test_a_key_counts_while_its_task_waits_or_runs_however_long(store: Store, clock: Clock) -> None:
    first = begin(store, task=a_task("t1", idempotency_key="k"))
    for _ in range(400):
        clock.move(LEASE_MS - 1)
        first.beat()
    with pytest.raises(AlreadyStarted):
        begin(store, task=a_task("t2", idempotency_key="k"))
    first.end()
    begin(store, task=a_task("t2", idempotency_key="k"))


def test_a_key_counts_while_its_task_waits_for_its_next_attempt(store: Store, clock: Clock) -> None:
    wait = 3 * TTL
    first = begin(store, task=a_task("t1", idempotency_key="k"))
    first.append([], end=End("pending", wait=wait))
    clock.move(wait - 1)
    with pytest.raises(AlreadyStarted):
        begin(store, task=a_task("t2", idempotency_key="k"))
    assert store.claim(first.ref, "worker") is not None
    clock.move(LEASE_MS - 1)
    with pytest.raises(AlreadyStarted):
        begin(store, task=a_task("t2", idempotency_key="k"))


def test_a_key_counts_while_a_later_attempt_of_its_task_runs_however_long(store: Store, clock: Clock) -> None:
    first = begin(store, task=a_task("t1", idempotency_key="k"))
    first.end("error")
    second = first.retry()
    for _ in range(2 * TTL // LEASE_MS):
        clock.move(LEASE_MS - 1)
        second.beat()
    with pytest.raises(AlreadyStarted):
        begin(store, task=a_task("t2", idempotency_key="k"))


def test_a_key_counts_again_with_a_later_attempt_of_its_task(store: Store, clock: Clock) -> None:
    first = begin(store, task=a_task("t1", idempotency_key="k"))
    first.end("error")
    clock.move(TTL - 60_000)
    assert store.update_session("s1", {"meta:x": "1"})
    clock.move(120_000)
    first.retry()
    with pytest.raises(AlreadyStarted):
        begin(store, task=a_task("t2", idempotency_key="k"))


def test_a_key_counts_again_once_its_lost_task_returns(store: Store, clock: Clock) -> None:
    first = begin(store, task=a_task("t1", idempotency_key="k"))
    clock.move(TTL - 60_000)
    assert store.update_session("s1", {"meta:x": "1"})
    clock.move(120_000)
    assert first.task.state is TaskState.LOST
    first.beat()
    with pytest.raises(AlreadyStarted):
        begin(store, task=a_task("t2", idempotency_key="k"))
    first.end()
    begin(store, task=a_task("t2", idempotency_key="k"))


def test_the_key_of_a_lost_task_that_returns_stays_with_the_one_that_was_begun_instead(
    store: Store, clock: Clock
) -> None:
    first = begin(store, task=a_task("t1", idempotency_key="k"))
    clock.move(TTL - 60_000)
    assert store.update_session("s1", {"meta:x": "1"})
    clock.move(120_000)
    begin(store, task=a_task("t2", idempotency_key="k"))
    first.beat()
    with pytest.raises(AlreadyStarted) as again:
        begin(store, task=a_task("t3", idempotency_key="k"))
    assert again.value.task.task_id == "t2"


def test_a_key_whose_task_was_let_go_is_not_run_again(store: Store, clock: Clock) -> None:
    begin(store, task=a_task("first", idempotency_key="k")).end()
    for n in range(TASKS):
        begin(store, task=a_task(f"t{n}")).end()
    assert store.task("s1", "first") is None
    with pytest.raises(NotFound):
        begin(store, task=a_task("again", idempotency_key="k"))


def test_a_key_whose_task_was_let_go_is_not_run_again_where_there_is_no_place_either(
    make_store: Callable[..., Store],
) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    begin(store, task=a_task("first", idempotency_key="k")).end()
    for n in range(TASKS):
        begin(store, task=a_task(f"t{n}")).end()
    with pytest.raises(NotFound):
        begin(store, a_session("s2"), a_task("again", idempotency_key="k"))
    with pytest.raises(NamespaceFull):
        begin(store, a_session("s2"), a_task("again", idempotency_key="another"))


def test_very_many_keys_make_no_step_longer(store: Store, kind: Kind) -> None:
    for n in range(300):
        begin(store, task=a_task(f"t{n}", idempotency_key=f"k{n}")).end()
    with pytest.raises(AlreadyStarted):
        begin(store, task=a_task("again", idempotency_key="k299"))
    if kind.client is not None:
        assert kind.client.hlen("sessionstatus:{c1}") <= RECENT_FIELDS
