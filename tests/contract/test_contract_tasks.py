"""Tasks on every store: begun, fenced, ended once, cancelled, lost, healed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from harness import START, STRANGE_IDS, Clock, Kind, a_session, a_task, at_once, begin, heal

from flask_sessionstatus.errors import AlreadyStarted, NamespaceFull, NotFound, SessionConflict, TaskRunning
from flask_sessionstatus.models import SessionState, TaskState
from flask_sessionstatus.sessions import owner_of
from flask_sessionstatus.stores.base import Change, End, Limits, Store, Verdict

MakeStore = Callable[[Limits], Store]
TTL = Limits().session_ttl
LEASE = Limits().lease
PENDING_AGE = Limits().max_pending_age


# Begin


def test_a_begun_task_is_running_under_a_lease(store: Store) -> None:
    job = begin(store, task=a_task(type="report", wire="ai-sdk"))
    task = job.task
    assert (task.task_id, task.session_id, task.conversation_id) == ("t1", "s1", "c1")
    assert (task.type, task.wire, task.attempt) == ("report", "ai-sdk", 1)
    assert task.state is TaskState.RUNNING
    assert (task.created_at, task.started_at, task.updated_at, task.finished_at) == (START, START, START, None)
    assert task.deadline == START + LEASE
    assert (task.epoch, task.tail) == (job.begun.epoch, 0)
    assert (job.begun.session_created_at, job.begun.task_created_at) == (START, START)
    assert not task.result_available


def test_a_pending_task_has_not_started(store: Store) -> None:
    task = begin(store, task=a_task(pending=True)).task
    assert (task.state, task.started_at, task.deadline) == (TaskState.PENDING, None, START + LEASE)
    session = store.session("s1")
    assert session is not None
    assert (session.status, session.pending_tasks_count) == (SessionState.ACTIVE, 1)


def test_a_repeated_begin_with_the_same_token_changes_nothing(store: Store, clock: Clock) -> None:
    job = begin(store, task=a_task(token="k"))
    job.append(["a"])
    clock.move(1000)
    again = begin(store, task=a_task(token="k"), if_running="reject")
    assert again.begun.epoch == job.epoch
    assert again.begun.tail == 1
    assert again.begun.task_created_at == START
    assert store.totals().sessions_created == 1
    assert job.texts() == ["a"]


def test_a_begin_of_the_same_attempt_with_another_token_is_refused(store: Store) -> None:
    job = begin(store)
    with pytest.raises(TaskRunning):
        begin(store)
    assert job.append(["a"]).verdict is Verdict.STORED


def test_a_task_id_of_another_session_is_refused(store: Store) -> None:
    begin(store, a_session("s1"), a_task("t1"))
    with pytest.raises(SessionConflict):
        begin(store, a_session("s2"), a_task("t1"))
    assert set(store.snapshot("c1").sessions) == {"s1"}


def test_reject_refuses_while_a_task_of_the_conversation_runs(store: Store, clock: Clock) -> None:
    first = begin(store, a_session("s1"), a_task("t1"))
    with pytest.raises(TaskRunning) as refused:
        begin(store, a_session("s2"), a_task("t2"), "reject")
    assert (refused.value.ids["taskId"], refused.value.ids["sessionId"]) == ("t1", "s1")
    assert store.session("s2") is None
    begin(store, a_session("s3", "elsewhere"), a_task("t3"), "reject")
    first.end()
    assert begin(store, a_session("s2"), a_task("t2"), "reject").task.state is TaskState.RUNNING


def test_reject_does_not_count_a_lost_task(store: Store, clock: Clock) -> None:
    begin(store, task=a_task("t1"))
    clock.move(LEASE)
    assert begin(store, task=a_task("t2"), if_running="reject").task.state is TaskState.RUNNING


def test_of_concurrent_rejecting_begins_exactly_one_gets_in(store: Store) -> None:
    results = at_once(
        *(lambda n=n: begin(store, a_session(f"s{n}"), a_task(f"t{n}"), "reject") for n in range(8))  # type: ignore[misc]
    )
    assert sum(isinstance(result, TaskRunning) for result in results) == 7
    assert len(store.snapshot("c1").tasks) == 1


def test_replace_asks_the_running_tasks_to_stop(store: Store, clock: Clock) -> None:
    first, second = begin(store, a_session("s1"), a_task("t1")), begin(store, a_session("s2"), a_task("t2"))
    ended = begin(store, a_session("s2"), a_task("t3"))
    ended.end()
    elsewhere = begin(store, a_session("s4", "elsewhere"), a_task("t4"))
    clock.move(7)
    new = begin(store, a_session("s1"), a_task("t5"), "replace")
    assert sorted(new.begun.stopping) == ["t1", "t2"]
    for job in (first, second):
        assert job.task.state is TaskState.RUNNING
        assert job.task.cancel_requested_at == clock.now
        assert job.append(["x"]).cancel_requested_at == clock.now
    assert elsewhere.task.cancel_requested_at is None
    assert new.task.cancel_requested_at is None


@pytest.mark.parametrize("leased", [True, False])
def test_replace_ends_what_has_not_begun(store: Store, clock: Clock, leased: bool) -> None:
    waiting = begin(store, a_session("s1"), a_task("t1", pending=True, leased=leased))
    clock.move(7)
    new = begin(store, a_session("s2"), a_task("t2", pending=True), "replace")
    assert new.begun.stopping == []
    assert (waiting.task.state, waiting.task.finished_at) == (TaskState.CANCELLED, clock.now)
    assert waiting.texts() == ["end"]
    assert waiting.append(change=Change(running=True)).verdict is Verdict.CLOSED
    assert new.task.state is TaskState.PENDING
    session = store.session("s1")
    assert session is not None
    assert session.status is SessionState.IDLE


@pytest.mark.parametrize("if_running", ["reject", "replace"])
def test_a_task_whose_session_is_over_is_in_nobodys_way(make_store: MakeStore, clock: Clock, if_running: str) -> None:
    store = make_store(Limits(max_age=60_000))
    begin(store, a_session("s1"), a_task("t1", pending=True, leased=False))
    clock.move(30_000)
    store.create_session(a_session("s2"))
    clock.move(30_000)
    new = begin(store, a_session("s2"), a_task("t2"), if_running, own=False)
    assert new.begun.stopping == []
    assert set(store.snapshot("c1").tasks) == {"t2"}


# Idempotency keys


def test_a_used_idempotency_key_gives_the_first_task(store: Store) -> None:
    begin(store, a_session("s1"), a_task("t1", idempotency_key="k/1"))
    with pytest.raises(AlreadyStarted) as used:
        begin(store, a_session("s2"), a_task("t2", idempotency_key="k/1"))
    assert used.value.task.task_id == "t1"
    assert store.session("s2") is None
    begin(store, a_session("s3", "elsewhere"), a_task("t3", idempotency_key="k/1"))
    begin(store, a_session("s1"), a_task("t4", idempotency_key="k/2"))


def test_a_used_idempotency_key_gives_the_first_task_after_its_end_too(store: Store) -> None:
    begin(store, task=a_task("t1", idempotency_key="k")).end()
    begin(store, task=a_task("t2"))
    with pytest.raises(AlreadyStarted) as used:
        begin(store, task=a_task("t3", idempotency_key="k"))
    assert used.value.task.task_id == "t1"
    assert used.value.task.state is TaskState.COMPLETED


def test_of_concurrent_begins_with_one_idempotency_key_exactly_one_starts(store: Store) -> None:
    results = at_once(
        *(lambda n=n: begin(store, a_session(f"s{n}"), a_task(f"t{n}", idempotency_key="k")) for n in range(8))  # type: ignore[misc]
    )
    first = {result.task.task_id for result in results if isinstance(result, AlreadyStarted)}
    assert sum(isinstance(result, AlreadyStarted) for result in results) == 7
    assert first == set(store.snapshot("c1").tasks)


def test_an_idempotency_key_is_free_again_after_the_sessions_time(store: Store, clock: Clock) -> None:
    begin(store, a_session("s1"), a_task("t1", idempotency_key="k")).end()
    clock.move(TTL - 1000)
    store.create_session(a_session("s2"))
    clock.move(1000)
    assert begin(store, a_session("s2"), a_task("t2", idempotency_key="k")).task.state is TaskState.RUNNING


@pytest.mark.parametrize("key", STRANGE_IDS)
def test_strange_idempotency_keys_are_only_keys(store: Store, key: str) -> None:
    begin(store, task=a_task("t1", idempotency_key=key))
    with pytest.raises(AlreadyStarted):
        begin(store, task=a_task("t2", idempotency_key=key))
    begin(store, task=a_task("t3", idempotency_key=key + "x"))


def test_a_heal_is_never_refused_for_its_idempotency_key(store: Store) -> None:
    session = a_session(created_at=START)
    begin(store, task=a_task("t1", idempotency_key="k"))
    healed = begin(store, session, a_task("t2", idempotency_key="k", epoch=START + 5, created_at=START), "reject")
    assert healed.begun.epoch == START + 5


# Epochs and retries


def test_epochs_of_a_conversation_rise_strictly_within_one_millisecond(store: Store) -> None:
    epochs = [begin(store, a_session(f"s{n % 3}"), a_task(f"t{n}")).epoch for n in range(9)]
    assert epochs == sorted(set(epochs))
    assert epochs[0] >= START


def test_epochs_rise_when_the_clock_jumps_back(store: Store, clock: Clock) -> None:
    first = begin(store, task=a_task("t1"))
    clock.move(-60_000)
    assert begin(store, task=a_task("t2")).epoch > first.epoch


def test_a_retry_has_a_new_epoch_and_begins_with_an_attempt_event(store: Store, clock: Clock) -> None:
    first = begin(store)
    first.append(["a", "b"])
    clock.move(LEASE)
    second = first.retry()
    assert second.epoch > first.epoch
    assert second.begun.tail == 1
    assert second.begun.task_created_at == START
    assert second.append(["c"]).number == 2
    page = second.page()
    assert page is not None
    assert [(event.cursor.epoch, event.cursor.number, event.type) for event in page.events] == [
        (first.epoch, 1, "token"),
        (first.epoch, 2, "token"),
        (second.epoch, 1, "attempt"),
        (second.epoch, 2, "token"),
    ]
    assert page.events[2].data == {"attempt": 2}
    assert (second.task.attempt, second.task.created_at, second.task.tail) == (2, START, 2)


def test_a_newer_attempt_fences_the_older_one_out_for_good(store: Store) -> None:
    first = begin(store)
    second = first.retry()
    assert first.append(["late"]).verdict is Verdict.FENCED
    assert first.end().verdict is Verdict.FENCED
    assert first.beat().verdict is Verdict.FENCED
    with pytest.raises(TaskRunning):
        heal(first)
    second.end()
    assert first.append(["late"], base=0).verdict is Verdict.FENCED
    assert second.texts() == ["attempt", "end"]


def test_a_retry_forgets_the_end_of_the_attempt_before(store: Store) -> None:
    first = begin(store)
    first.end("error", error_type="TimeLimit", error_message="Too long")
    second = first.retry()
    assert (second.task.state, second.task.error_type, second.task.finished_at) == (TaskState.RUNNING, None, None)
    second.end(result="1")
    assert second.task.state is TaskState.COMPLETED
    assert store.result("s1", "t1") == "1"


def test_a_retry_forgets_the_result_of_the_attempt_before(store: Store) -> None:
    first = begin(store)
    first.end(result='"first"')
    second = first.retry()
    assert not second.task.result_available
    assert store.result("s1", "t1") is None
    second.end("error", error_type="Late")
    assert not second.task.result_available
    assert store.result("s1", "t1") is None


# Healing


def lose(kind: Kind, store: Store) -> Store:
    """Let the store forget everything, as a server that is restarted empty does."""
    if kind.client is None:
        return kind.make()
    kind.client.delete(*kind.client.keys("sessionstatus:*"))
    return store


def test_a_lost_task_is_made_again_with_its_epoch_and_times(store: Store, kind: Kind, clock: Clock) -> None:
    job = begin(store, a_session(metadata={"a": 1}))
    job.append(["a", "b"])
    clock.move(1000)
    job.store = store = lose(kind, store)
    assert job.append(["c"]).verdict is Verdict.MISSING
    assert job.beat().verdict is Verdict.MISSING
    healed = heal(job, metadata={"a": 1})
    assert (healed.begun.epoch, healed.begun.tail) == (job.epoch, 0)
    assert (healed.begun.session_created_at, healed.begun.task_created_at) == (START, START)
    healed.append(["a", "b", "c"], base=0)
    assert healed.numbers() == [1, 2, 3]
    session = store.session("s1")
    assert session is not None
    assert (session.created_at, session.namespace_id, session.metadata) == (START, "u1", {"a": 1})
    assert (session.expires_at, session.last_activity) == (clock.now + TTL, clock.now)
    assert [each.session_id for each in store.sessions("u1", 10, None).sessions] == ["s1"]


def test_a_healed_retry_gets_no_second_attempt_event(store: Store, kind: Kind) -> None:
    job = begin(store).retry()
    job.store = lose(kind, store)
    healed = heal(job)
    assert healed.begun.tail == 0
    assert healed.append([("attempt", '{"attempt":2}'), ("token", '{"text":"a"}')], base=0).number == 2
    assert healed.texts() == ["attempt", "a"]


def test_a_heal_never_lowers_the_last_epoch(store: Store, kind: Kind) -> None:
    older, newer = begin(store, task=a_task("t1")), begin(store, task=a_task("t2"))
    newest = begin(store, task=a_task("t3"))
    older.store = newer.store = newest.store = store = lose(kind, store)
    heal(newest)
    heal(older)
    assert begin(store, task=a_task("t4")).epoch > newest.epoch


def test_a_heal_keeps_the_owner_with_the_smallest_created_at(store: Store) -> None:
    begin(
        store, a_session(namespace_id="late", created_at=START), a_task("t1", epoch=START, created_at=START), own=False
    )
    begin(
        store,
        a_session(namespace_id="early", created_at=START - 5000),
        a_task("t2", epoch=START - 5000, created_at=START - 5000),
        own=False,
    )
    session = store.session("s1")
    assert session is not None
    assert (session.namespace_id, session.created_at) == ("early", START - 5000)


def test_a_heal_does_not_hand_a_session_to_a_later_owner(store: Store) -> None:
    begin(
        store,
        a_session(namespace_id="early", created_at=START - 5000),
        a_task("t1", epoch=START - 5000, created_at=START - 5000),
        own=False,
    )
    begin(
        store, a_session(namespace_id="late", created_at=START), a_task("t2", epoch=START, created_at=START), own=False
    )
    session = store.session("s1")
    assert session is not None
    assert (session.namespace_id, session.created_at) == ("early", START - 5000)


def test_the_owner_of_a_conversation_is_that_of_its_first_session_whichever_is_healed_first(store: Store) -> None:
    begin(store, a_session("s2", namespace_id="late", created_at=START), a_task("t2", epoch=START), own=False)
    begin(store, a_session("s1", namespace_id="early", created_at=START - 9), a_task("t1", epoch=START - 9), own=False)
    assert owner_of(store.snapshot("c1")) == "early"


# Change and end


def test_progress_is_a_field_and_none_leaves_a_value_as_it_is(store: Store, clock: Clock) -> None:
    job = begin(store)
    clock.move(10)
    assert job.append(change=Change(current=1.5, total=10, message="половина")).verdict is Verdict.STORED
    assert (job.task.progress.current, job.task.progress.total, job.task.progress.message) == (1.5, 10, "половина")
    job.append(change=Change(current=2))
    assert (job.task.progress.current, job.task.progress.total, job.task.progress.message) == (2, 10, "половина")
    assert job.task.updated_at == clock.now
    assert job.task.state is TaskState.RUNNING


def test_progress_alone_is_no_activity(store: Store, clock: Clock) -> None:
    job = begin(store)
    clock.move(10)
    job.append(change=Change(current=1))
    session = store.session("s1")
    assert session is not None
    assert session.last_activity == START


def test_an_event_is_activity(store: Store, clock: Clock) -> None:
    job = begin(store)
    clock.move(10)
    job.append(["a"])
    session = store.session("s1")
    assert session is not None
    assert session.last_activity == clock.now


def test_a_pending_task_becomes_running_and_has_its_start_then(store: Store, clock: Clock) -> None:
    job = begin(store, task=a_task(pending=True))
    clock.move(500)
    job.append(change=Change(running=True))
    assert (job.task.state, job.task.started_at, job.task.created_at) == (TaskState.RUNNING, START + 500, START)
    clock.move(500)
    job.append(change=Change(running=True))
    assert job.task.started_at == START + 500


def test_remaining_time_gives_the_estimate_and_never_the_past(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.append(change=Change(current=1, total=2, remaining=5000))
    assert (job.task.estimated_completion, job.task.estimate_basis) == (START + 5000, "progress")
    clock.move(6000)
    assert job.task.estimated_completion == clock.now


@pytest.mark.parametrize(
    ("end", "session"),
    [
        (End("completed"), SessionState.COMPLETED),
        (End("error", "ValueError", "bad ключ", None, "Traceback …"), SessionState.IDLE),
        (End("cancelled"), SessionState.IDLE),
    ],
)
def test_an_end_is_recorded(store: Store, clock: Clock, end: End, session: SessionState) -> None:
    job = begin(store)
    clock.move(3000)
    answer = job.append([("token", '{"text":"a"}'), ("end", "{}")], end=end)
    assert (answer.verdict, answer.number) == (Verdict.STORED, 2)
    task = job.task
    assert (task.state, task.error_type, task.error_message) == (
        TaskState(end.state),
        end.error_type,
        end.error_message,
    )
    assert (task.finished_at, task.estimated_completion, task.deadline) == (clock.now, clock.now, None)
    assert task.estimate_basis is None
    found = store.session("s1")
    assert found is not None
    assert (found.status, found.pending_tasks_count, found.last_activity) == (session, 0, clock.now)
    assert found.expires_at == clock.now + TTL
    assert job.texts() == ["a", "end"]


def test_a_task_that_ends_before_it_started_has_a_start(store: Store) -> None:
    job = begin(store, task=a_task(pending=True))
    job.end()
    assert (job.task.started_at, job.task.finished_at) == (START, START)


def test_a_finished_task_cannot_be_overwritten(store: Store) -> None:
    job = begin(store)
    job.append(["a"])
    job.end(result='"mine"')
    before = job.page()
    assert job.end("error", error_type="Late").verdict is Verdict.CLOSED
    assert job.append(["late"]).verdict is Verdict.CLOSED
    assert job.end("cancelled", result='"other"').verdict is Verdict.CLOSED
    assert job.page() == before
    assert store.result("s1", "t1") == '"mine"'


def test_a_late_progress_does_not_change_a_finished_task(store: Store) -> None:
    job = begin(store)
    job.append(change=Change(current=1))
    job.end()
    before = job.task
    job.append(change=Change(running=True, current=99, message="late"))
    assert job.task == before


def test_a_repeated_end_is_harmless_and_its_sender_knows_that_it_is_stored(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.append(["a"])
    job.end(base=1)
    before = job.page()
    clock.move(1000)
    answer = job.end(base=1)
    assert (answer.verdict, answer.number) == (Verdict.STORED, 2)
    page = job.page()
    assert before is not None
    assert page is not None
    assert (page.task, page.events) == (before.task, before.events)


def test_of_eight_threads_that_end_a_task_exactly_one_wins(store: Store) -> None:
    for n in range(20):
        job = begin(store, a_session(f"s{n}"), a_task(f"t{n}"))
        states = ["completed", "error", "cancelled"]

        def finish(number: int, job: object = job, states: list[str] = states) -> Verdict:
            state = states[number % 3]
            events = [("token", f'{{"text":"{number}"}}')] * number
            return job.append([*events, ("end", f'{{"state":"{state}"}}')], base=0, end=End(state, str(number))).verdict  # type: ignore[attr-defined,no-any-return]

        verdicts = at_once(*(lambda k=k: finish(k) for k in range(8)))  # type: ignore[misc]
        page = job.page()
        assert page is not None
        assert [event.type for event in page.events].count("end") == 1
        assert page.events[-1].data == {"state": page.task.state.value}
        winner = len(page.events) - 1
        assert page.task.error_type == str(winner)
        # Whoever asked for less than is there hears that it is stored, whoever asked for more that it is closed.
        assert [verdict is Verdict.STORED for verdict in verdicts] == [k <= winner for k in range(8)]


def test_either_an_end_or_a_cancel_wins_and_never_both(store: Store, clock: Clock) -> None:
    for n in range(30):
        job = begin(store, a_session(f"s{n}"), a_task(f"t{n}", pending=True))
        answer, cancelled = at_once(job.end, job.cancel)
        assert cancelled is not None
        page = job.page()
        assert page is not None
        assert [event.type for event in page.events] == ["end"]
        won = page.task.state is TaskState.COMPLETED
        assert answer.verdict is (Verdict.STORED if won else Verdict.CLOSED)
        assert cancelled.state is page.task.state
        assert page.events[0].data["state"] == page.task.state.value  # type: ignore[index,call-overload]


def test_an_end_without_an_event_ends_the_task(store: Store) -> None:
    job = begin(store)
    job.append(["a"])
    assert job.append(end=End("completed")).verdict is Verdict.STORED
    assert (job.task.state, job.task.tail) == (TaskState.COMPLETED, 1)


# Results


def test_a_result_is_kept_as_it_was_given(store: Store) -> None:
    job = begin(store)
    assert store.result("s1", "t1") is None
    job.end(result='{"ключ":[1,null]}')
    assert job.task.result_available
    assert store.result("s1", "t1") == '{"ключ":[1,null]}'
    assert store.result("s1", "t2") is None
    store.create_session(a_session("s2"))
    assert store.result("s2", "t1") is None


def test_a_result_goes_at_its_own_time(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(Limits(result_ttl=60_000))
    job = begin(store)
    job.end(result="1")
    clock.move(30_000)
    job.beat()
    clock.move(29_000)
    assert store.result("s1", "t1") == "1"
    clock.move(1000)
    assert store.result("s1", "t1") is None
    assert job.task.state is TaskState.COMPLETED


# Leases


def test_a_task_is_lost_at_its_deadline_and_not_before(store: Store, clock: Clock) -> None:
    job = begin(store)
    clock.move(LEASE - 1)
    assert job.task.state is TaskState.RUNNING
    clock.move(1)
    task = job.task
    assert (task.state, task.finished_at) == (TaskState.LOST, START + LEASE)
    assert (task.estimated_completion, task.deadline) == (None, START + LEASE)
    session = store.session("s1")
    assert session is not None
    assert (session.status, session.pending_tasks_count) == (SessionState.IDLE, 0)
    assert store.snapshot("c1").task("t1").state is TaskState.LOST
    page = job.page()
    assert page is not None
    assert page.task.state is TaskState.LOST


def test_beats_events_and_progress_each_renew_the_lease(store: Store, clock: Clock) -> None:
    job = begin(store)
    for renew in (job.beat, lambda: job.append(["a"]), lambda: job.append(change=Change(current=1))):
        clock.move(LEASE - 1)
        renew()
        assert job.task.deadline == clock.now + LEASE
    assert job.task.state is TaskState.RUNNING


def test_a_lost_task_comes_back_with_its_own_attempt(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.append(["a"])
    clock.move(LEASE * 2)
    assert job.task.state is TaskState.LOST
    assert job.append(["b"]).verdict is Verdict.STORED
    assert job.task.state is TaskState.RUNNING
    clock.move(LEASE * 2)
    assert job.beat().verdict is Verdict.STORED
    assert job.task.state is TaskState.RUNNING
    clock.move(LEASE * 2)
    assert job.end().verdict is Verdict.STORED
    assert job.task.state is TaskState.COMPLETED
    assert job.texts() == ["a", "b", "end"]


def test_an_ended_task_is_never_lost(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.end()
    clock.move(LEASE * 3)
    assert job.task.state is TaskState.COMPLETED
    assert job.beat().verdict is Verdict.STORED
    assert job.task.deadline is None


def test_a_task_queued_elsewhere_waits_without_a_lease_up_to_its_maximum_age(store: Store, clock: Clock) -> None:
    job = begin(store, task=a_task(pending=True, leased=False))
    clock.move(PENDING_AGE - 1000)
    assert job.task.state is TaskState.PENDING
    session = store.session("s1")
    assert session is not None
    assert session.status is SessionState.ACTIVE
    assert [each.session_id for each in store.sessions("u1", 10, None).sessions] == ["s1"]


def test_a_task_queued_elsewhere_is_lost_at_its_maximum_age(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(Limits(max_pending_age=60_000))
    job = begin(store, task=a_task(pending=True, leased=False))
    clock.move(60_000)
    assert job.task.state is TaskState.LOST
    job.append(change=Change(running=True))
    assert job.task.state is TaskState.RUNNING
    assert job.task.deadline == clock.now + LEASE


# Cancel


def test_a_running_task_is_asked_to_stop_and_runs_on(store: Store, clock: Clock) -> None:
    job = begin(store)
    clock.move(10)
    cancelled = job.cancel()
    assert cancelled is not None
    assert (cancelled.state, cancelled.cancel_requested_at) == (TaskState.RUNNING, clock.now)
    clock.move(10)
    again = job.cancel()
    assert again is not None
    assert again.cancel_requested_at == START + 10
    assert job.append(["a"]).cancel_requested_at == START + 10
    assert job.beat().cancel_requested_at == START + 10
    job.end("cancelled")
    assert (job.task.state, job.task.cancel_requested_at) == (TaskState.CANCELLED, START + 10)


def test_a_task_that_completes_after_a_cancel_request_has_completed(store: Store) -> None:
    job = begin(store)
    job.cancel()
    assert job.end().verdict is Verdict.STORED
    assert job.task.state is TaskState.COMPLETED


@pytest.mark.parametrize("leased", [True, False])
def test_a_pending_task_is_cancelled_at_once_with_an_end(store: Store, clock: Clock, leased: bool) -> None:
    job = begin(store, task=a_task(pending=True, leased=leased))
    clock.move(10)
    cancelled = job.cancel()
    assert cancelled is not None
    assert (cancelled.state, cancelled.finished_at, cancelled.tail) == (TaskState.CANCELLED, clock.now, 1)
    page = job.page()
    assert page is not None
    assert [event.type for event in page.events] == ["end"]
    assert page.events[0].data == {"state": "cancelled", "errorType": None, "errorMessage": None, "taskId": "t1"}
    assert page.task == cancelled
    answer = job.append(["late"])
    assert (answer.verdict, answer.cancel_requested_at) == (Verdict.CLOSED, clock.now)
    assert job.beat().verdict is Verdict.CLOSED


def test_a_cancelled_task_keeps_its_strange_id_in_its_end(store: Store) -> None:
    job = begin(store, task=a_task("ключ: %2e", pending=True))
    job.cancel()
    page = job.page()
    assert page is not None
    assert page.events[0].data["taskId"] == "ключ: %2e"  # type: ignore[index,call-overload]


def test_a_task_whose_lease_is_over_is_cancelled_at_once(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.append(["a"])
    clock.move(LEASE)
    cancelled = job.cancel()
    assert cancelled is not None
    assert cancelled.state is TaskState.CANCELLED
    assert job.texts() == ["a", "end"]
    assert job.append(["late"]).verdict is Verdict.CLOSED


def test_a_cancelled_task_whose_lease_runs_out_reads_as_cancelled_and_gets_its_end(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.append(["a"])
    job.cancel()
    clock.move(LEASE)
    assert job.task.state is TaskState.CANCELLED
    assert store.snapshot("c1").task("t1").state is TaskState.CANCELLED
    session = store.session("s1")
    assert session is not None
    assert (session.status, session.pending_tasks_count) == (SessionState.IDLE, 0)
    assert job.texts() == ["a", "end"]
    assert job.append(["late"]).verdict is Verdict.CLOSED
    assert job.texts() == ["a", "end"]


def test_the_late_writer_itself_finds_its_cancelled_task_closed(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.cancel()
    clock.move(LEASE)
    assert job.beat().verdict is Verdict.CLOSED
    assert job.texts() == ["end"]


def test_a_cancel_of_an_ended_task_changes_nothing(store: Store, clock: Clock) -> None:
    job = begin(store)
    job.end()
    before = job.page()
    clock.move(10)
    cancelled = job.cancel()
    assert cancelled is not None
    assert (cancelled.state, cancelled.cancel_requested_at) == (TaskState.COMPLETED, None)
    page = job.page()
    assert before is not None
    assert page is not None
    assert (page.task, page.events) == (before.task, before.events)


def test_a_cancel_through_another_session_hits_nothing(store: Store) -> None:
    job = begin(store, a_session("s1"), a_task("t1"))
    store.create_session(a_session("s2"))
    wrong = type(job.ref)("c1", "s2", "t1")
    assert store.cancel(wrong) is None
    assert store.cancel(type(job.ref)("c1", "s1", "t9")) is None
    assert store.cancel(type(job.ref)("c9", "s1", "t1")) is None
    assert job.task.cancel_requested_at is None
    assert store.task("s2", "t1") is None
    assert store.events(wrong, job.task.cursor, 10) is None


# Tasks of a session


def test_a_sessions_tasks_come_latest_first(store: Store, clock: Clock) -> None:
    for n in range(4):
        job = begin(store, task=a_task(f"t{n}"))
        if n != 1:
            job.end(result=str(n))
        clock.move(1)
    begin(store, a_session("s2"), a_task("other"))
    tasks = store.tasks("s1", 10)
    assert tasks is not None
    assert [(task.task_id, task.state.value) for task in tasks] == [
        ("t3", "completed"),
        ("t2", "completed"),
        ("t1", "running"),
        ("t0", "completed"),
    ]
    latest = store.tasks("s1", 2)
    assert latest is not None
    assert [task.task_id for task in latest] == ["t3", "t2"]
    assert store.result("s1", "t0") == "0"
    first = store.task("s1", "t0")
    assert first == tasks[3]
    session = store.session("s1")
    assert session is not None
    assert session.latest_task is not None
    assert (session.latest_task.task_id, session.pending_tasks_count) == ("t3", 1)
    assert session.status is SessionState.ACTIVE


def test_a_sessions_task_is_the_same_whichever_way_it_is_read(store: Store) -> None:
    job = begin(store)
    job.append(["a"], change=Change(current=1, total=3, remaining=100))
    session, page, tasks = store.session("s1"), job.page(), store.tasks("s1", 1)
    assert session is not None
    assert page is not None
    assert tasks is not None
    assert store.snapshot("c1").task("t1") == session.latest_task == tasks[0] == page.task == job.task


def test_a_session_with_an_earlier_finished_task_keeps_its_stream(store: Store) -> None:
    first = begin(store, task=a_task("t1"))
    first.append(["a"])
    first.end()
    begin(store, task=a_task("t2"))
    assert first.texts() == ["a", "end"]
    assert first.end(base=1).verdict is Verdict.STORED
    assert first.append(["late"]).verdict is Verdict.CLOSED


# Estimates by history


def test_past_durations_are_copied_into_a_task_when_it_begins(store: Store, clock: Clock) -> None:
    before = begin(store, task=a_task("t1", type="report"))
    for duration in (10_000, 20_000, 30_000):
        store.record_duration("report", duration)
    store.record_duration("other", 1)
    job = begin(store, task=a_task("t2", type="report"))
    assert before.task.estimated_completion is None
    assert (job.task.estimated_completion, job.task.estimate_basis) == (START + 20_000, "history")
    clock.move(15_000)
    assert job.task.estimated_completion == START + 25_000
    clock.move(14_999)
    assert job.task.estimated_completion == START + 30_000


def test_two_durations_are_too_few_for_an_estimate(store: Store) -> None:
    for duration in (10_000, 20_000):
        store.record_duration("report", duration)
    task = begin(store, task=a_task(type="report")).task
    assert (task.estimated_completion, task.estimate_basis) == (None, None)


def test_only_the_last_twenty_durations_count(store: Store) -> None:
    for duration in [1_000_000] * 10 + [10_000] * 20:
        store.record_duration("report", duration)
    assert begin(store, task=a_task(type="report")).task.estimated_completion == START + 10_000


def test_a_pending_task_has_no_estimate(store: Store) -> None:
    for duration in (10_000, 20_000, 30_000):
        store.record_duration("report", duration)
    assert begin(store, task=a_task(type="report", pending=True)).task.estimated_completion is None


def test_a_healed_task_without_a_session_anywhere_is_not_confused_with_a_deleted_one(store: Store, kind: Kind) -> None:
    job = begin(store)
    job.store = store = lose(kind, store)
    heal(job)
    store.delete_session("s1")
    with pytest.raises(NotFound):
        heal(job)


def test_a_session_made_again_holds_nothing_of_a_lost_task_of_before(store: Store, clock: Clock) -> None:
    begin(store, a_session("s1"), a_task("t1"))
    clock.move(TTL // 2)
    store.create_session(a_session("s2"))
    clock.move(TTL // 2)
    store.create_session(a_session("s1"))
    session = store.session("s1")
    assert session is not None
    assert session.latest_task is None
    assert store.snapshot("c1").tasks == {}


def test_a_late_writer_makes_its_expired_session_again(store: Store, clock: Clock) -> None:
    job = begin(store, a_session("s1"), a_task("t1"))
    job.append(["a"])
    clock.move(TTL // 2)
    store.create_session(a_session("s2"))
    clock.move(TTL // 2)
    assert job.append(["b"]).verdict is Verdict.MISSING
    healed = heal(job)
    assert healed.append(["a", "b"], base=0).verdict is Verdict.STORED
    assert healed.texts() == ["a", "b"]
    assert set(store.snapshot("c1").sessions) == {"s1", "s2"}


def test_used_idempotency_keys_do_not_pile_up(store: Store, kind: Kind, clock: Clock) -> None:
    for n in range(6):
        begin(store, task=a_task(f"t{n}", idempotency_key=f"k{n}"))
        clock.move(TTL // 2)
        store.update_session("s1", {"meta:a": str(n)})
    if kind.client is not None:
        assert 0 < len(kind.client.keys("sessionstatus:{c1}:key:*")) <= 3


def test_turn_ids_may_hold_anything(store: Store) -> None:
    from flask_sessionstatus.models import Turn

    store.create_session(a_session())
    for name in STRANGE_IDS:
        assert store.add_turns("s1", [Turn("user", name, turn_id=name)], {}) is not None
    turns = store.turns("s1", None, 100)
    assert turns is not None
    assert [turn.turn_id for turn in turns] == list(STRANGE_IDS)


def test_nobody_begins_in_a_conversation_that_belongs_to_somebody_else(store: Store) -> None:
    mine = begin(store, a_session("s1", namespace_id="alice"), a_task("t1", idempotency_key="k"))
    for if_running in ("allow", "reject", "replace"):
        with pytest.raises(SessionConflict) as refused:
            begin(store, a_session("s2", namespace_id="bob"), a_task("t2", idempotency_key="k"), if_running=if_running)
        assert "t1" not in str(refused.value.ids)
    with pytest.raises(SessionConflict):
        store.create_session(a_session("s3", namespace_id="bob"))
    assert mine.task.cancel_requested_at is None
    assert set(store.snapshot("c1").sessions) == {"s1"}
    assert store.sessions("bob", 10, None).sessions == []
    begin(store, a_session("s4", namespace_id="bob"), a_task("t4"), own=False)


def test_an_idempotency_key_counts_as_long_as_its_task_runs(store: Store, clock: Clock) -> None:
    job = begin(store, task=a_task("t1", idempotency_key="k"))
    for _ in range(TTL * 2 // LEASE + 1):
        clock.move(LEASE - 1)
        job.beat()
    with pytest.raises(AlreadyStarted):
        begin(store, task=a_task("t2", idempotency_key="k"))


def test_a_task_queued_elsewhere_is_still_there_once_it_is_lost(make_store: MakeStore, clock: Clock) -> None:
    store = make_store(Limits(session_ttl=60_000, max_pending_age=600_000))
    job = begin(store, task=a_task(pending=True, leased=False))
    clock.move(600_000)
    assert job.task.state is TaskState.LOST
    session = store.session("s1")
    assert session is not None
    assert session.status is SessionState.IDLE
    assert [each.session_id for each in store.sessions("u1", 10, None).sessions] == ["s1"]
    clock.move(59_000)
    assert job.task.state is TaskState.LOST
    clock.move(1000)
    assert store.session("s1") is None


def test_a_traceback_is_kept_as_long_as_its_attempt_is_the_latest(store: Store) -> None:
    job = begin(store)
    assert store.traceback("s1", "t1") is None
    job.end("error", error_type="ValueError", traceback="Traceback: é")
    assert store.traceback("s1", "t1") == "Traceback: é"
    assert store.traceback("s2", "t1") is None
    job.retry()
    assert store.traceback("s1", "t1") is None
    store.delete_session("s1")
    assert store.traceback("s1", "t1") is None


def test_a_used_key_gives_the_first_task_also_where_there_is_no_place_for_another_session(
    make_store: MakeStore,
) -> None:
    store = make_store(Limits(max_sessions_per_namespace=1))
    begin(store, a_session("s1"), a_task("t1", idempotency_key="k"))
    with pytest.raises(AlreadyStarted) as started:
        begin(store, a_session("s2"), a_task("t2", idempotency_key="k"))
    assert started.value.task.task_id == "t1"
    with pytest.raises(NamespaceFull):
        begin(store, a_session("s2"), a_task("t2", idempotency_key="another"))
    with pytest.raises((NamespaceFull, SessionConflict)):
        begin(store, a_session("s3", "c3"), a_task("t3", idempotency_key="k"))
