"""Tasks that wait in a queue, on every store: claimed once, lost and claimed again, left to the queue, stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from contract.test_contract_events import Heard
from harness import START, STRANGE_IDS, Clock, Job, Kind, a_session, a_task, at_once, begin, says_nothing

from flask_sessionstatus.errors import AlreadyStarted, Cancelled, NotFound, SessionConflict, TaskRunning
from flask_sessionstatus.models import Cursor, SessionState, TaskState
from flask_sessionstatus.stores.base import Begun, Change, End, Limits, Store, TaskRef, Verdict

MakeStore = Callable[[Limits], Store]
TTL = Limits().session_ttl
LEASE = Limits().lease
PENDING_AGE = Limits().max_pending_age


def enqueue(
    store: Store, session_id: str = "s1", task_id: str = "t1", if_running: str = "allow", **fields: object
) -> Job:
    return begin(store, a_session(session_id), a_task(task_id, pending=True, leased=False, **fields), if_running)


def claim(job: Job, token: str = "worker") -> Job:
    """The attempt that a worker begins; raises as the store does."""
    begun = job.store.claim(job.ref, token)
    assert begun is not None
    return Job(job.store, begun, job.session, replace(job.draft, token=token, attempt=begun.attempt))


def requeue(job: Job, wait: int = PENDING_AGE) -> Verdict:
    return job.append(end=End("pending", wait=wait)).verdict


def heal(job: Job, store: Store) -> Job:
    """Make a waiting task again from its ticket, in a store that lost it."""
    session = replace(job.session, created_at=job.begun.session_created_at)
    task = replace(job.draft, epoch=job.epoch, created_at=job.begun.task_created_at)
    return begin(store, session, task, own=False)


def lose(kind: Kind, store: Store) -> Store:
    if kind.client is None:
        return kind.make()
    kind.client.delete(*kind.client.keys("sessionstatus:*"))
    return store


def seen(job: Job) -> list[tuple[int, int, str]]:
    page = job.page()
    assert page is not None
    return [(event.cursor.epoch, event.cursor.number, event.type) for event in page.events]


# Claimed


def test_a_claimed_task_runs_under_a_lease_in_its_first_attempt(store: Store, clock: Clock) -> None:
    job = enqueue(store, type="report", wire="ai-sdk")
    assert (job.task.state, job.task.deadline) == (TaskState.PENDING, START + PENDING_AGE)
    clock.move(5000)
    worker = claim(job)
    task = worker.task
    assert (task.state, task.attempt, task.type, task.wire) == (TaskState.RUNNING, 1, "report", "ai-sdk")
    assert (task.created_at, task.started_at, task.deadline) == (START, clock.now, clock.now + LEASE)
    assert (task.epoch, task.tail, task.cursor) == (worker.epoch, 0, Cursor())
    assert worker.begun == Begun(worker.epoch, 0, START, START, clock.now, 1, [], "u1")
    assert worker.epoch > job.epoch
    session = store.session("s1")
    assert session is not None
    assert (session.status, session.pending_tasks_count, session.last_activity) == (SessionState.ACTIVE, 1, clock.now)
    worker.append(["a"])
    worker.end(result="1")
    assert seen(worker) == [(worker.epoch, 1, "token"), (worker.epoch, 2, "end")]
    assert store.result("s1", "t1") == "1"


def test_of_concurrent_claims_exactly_one_gets_the_task(store: Store) -> None:
    for n in range(5):
        job = enqueue(store, f"s{n}", f"t{n}")
        results = at_once(*(lambda k=k, job=job: claim(job, f"worker {k}") for k in range(8)))  # type: ignore[misc]
        assert sum(isinstance(result, TaskRunning) for result in results) == 7
        (won,) = (result for result in results if isinstance(result, Job))
        assert won.append(["a"]).verdict is Verdict.STORED


def test_a_repeated_claim_of_the_same_worker_changes_nothing(store: Store, clock: Clock) -> None:
    job = enqueue(store)
    worker = claim(job)
    worker.append(["a"])
    clock.move(1000)
    again = claim(job)
    assert (again.epoch, again.tail, again.draft.attempt) == (worker.epoch, 1, 1)
    assert again.append(["b"]).number == 2
    assert worker.texts() == ["a", "b"]


def test_a_task_that_another_worker_holds_is_refused_while_its_lease_is_live(store: Store, clock: Clock) -> None:
    worker = claim(enqueue(store))
    clock.move(LEASE - 1)
    with pytest.raises(TaskRunning) as refused:
        claim(worker, "second")
    assert (refused.value.ids["taskId"], refused.value.ids["sessionId"]) == ("t1", "s1")
    worker.beat()
    clock.move(LEASE - 1)
    with pytest.raises(TaskRunning):
        claim(worker, "second")
    assert worker.end().verdict is Verdict.STORED


def test_a_lost_task_that_is_claimed_again_gets_a_new_attempt_and_fences_the_old_one_out(
    store: Store, clock: Clock
) -> None:
    first = claim(enqueue(store))
    first.append(["a"], change=Change(current=1, total=2, message="x", remaining=5))
    clock.move(LEASE)
    second = claim(first, "second")
    task = second.task
    assert (task.state, task.attempt, task.started_at, task.created_at) == (TaskState.RUNNING, 2, clock.now, START)
    assert (task.progress.current, task.progress.total, task.progress.message) == (None, None, None)
    assert (task.estimated_completion, task.deadline) == (None, clock.now + LEASE)
    for late in (first.append(["late"]), first.beat(), first.end(), first.append(end=End("pending", wait=1))):
        assert late.verdict is Verdict.FENCED
    second.append(["b"])
    assert seen(second) == [
        (first.epoch, 1, "token"),
        (second.epoch, 1, "attempt"),
        (second.epoch, 2, "token"),
    ]
    page = second.page()
    assert page is not None
    assert page.events[1].data == {"attempt": 2}


def test_a_failed_task_that_is_delivered_again_gets_a_new_attempt(store: Store) -> None:
    first = claim(enqueue(store))
    first.end("error", error_type="ValueError", error_message="no")
    second = claim(first, "second")
    task = second.task
    assert (task.state, task.attempt, task.error_type, task.finished_at) == (TaskState.RUNNING, 2, None, None)
    second.end(result="1")
    assert [event for _, _, event in seen(second)] == ["end", "attempt", "end"]
    assert store.result("s1", "t1") == "1"


def test_a_completed_task_is_not_worked_on_again(store: Store) -> None:
    worker = claim(enqueue(store))
    worker.end(result="1")
    begin(store, task=a_task("later"))
    with pytest.raises(AlreadyStarted) as refused:
        claim(worker, "second")
    assert (refused.value.task.task_id, refused.value.task.state) == ("t1", TaskState.COMPLETED)
    assert store.result("s1", "t1") == "1"


def test_a_task_that_waited_beyond_its_maximum_age_is_lost_and_can_still_be_claimed(
    make_store: MakeStore, clock: Clock
) -> None:
    store = make_store(Limits(max_pending_age=60_000))
    job = enqueue(store)
    clock.move(60_000)
    assert job.task.state is TaskState.LOST
    assert claim(job).task.attempt == 1
    assert [event for _, _, event in seen(job)] == []


def test_a_task_of_this_process_cannot_be_claimed_while_it_lives(store: Store) -> None:
    for n, pending in enumerate((True, False)):
        with pytest.raises(TaskRunning):
            claim(begin(store, task=a_task(f"t{n}", pending=pending)))


def test_what_is_not_there_cannot_be_claimed(store: Store) -> None:
    job = enqueue(store)
    store.create_session(a_session("s2"))
    for wrong in ("c1 s1 t9", "c1 s2 t1", "c9 s1 t1"):
        assert says_nothing(store, partial(store.claim, TaskRef(*wrong.split()), "worker"))
    assert job.task.state is TaskState.PENDING


@pytest.mark.parametrize("name", STRANGE_IDS)
def test_strange_ids_are_only_ids(store: Store, name: str) -> None:
    job = begin(store, a_session(name, name, name), a_task(name, pending=True, leased=False))
    assert store.find_task(name) == job.task
    worker = claim(job, name)
    worker.append(["a"])
    assert worker.texts() == ["a"]


# Stopped


def test_a_task_that_was_cancelled_while_it_waited_stays_cancelled(store: Store, clock: Clock) -> None:
    job = enqueue(store)
    job.cancel()
    for _ in range(2):
        with pytest.raises(Cancelled):
            claim(job)
        clock.move(PENDING_AGE - TTL - 2000)
    assert job.task.state is TaskState.CANCELLED
    assert job.texts() == ["end"]


def test_a_task_that_was_asked_to_stop_before_its_worker_was_lost_is_not_begun_again(
    store: Store, clock: Clock
) -> None:
    worker = claim(enqueue(store))
    worker.cancel()
    clock.move(LEASE)
    with pytest.raises(Cancelled):
        claim(worker, "second")
    assert worker.task.state is TaskState.CANCELLED
    assert worker.texts() == ["end"]


def test_a_task_that_failed_after_it_was_asked_to_stop_is_not_begun_again(store: Store) -> None:
    worker = claim(enqueue(store))
    worker.cancel()
    worker.end("error", error_type="Abort")
    with pytest.raises(Cancelled):
        claim(worker, "second")
    assert worker.task.state is TaskState.ERROR


def test_a_task_that_was_deleted_while_it_waited_is_cancelled_for_its_worker(store: Store) -> None:
    job = enqueue(store)
    store.delete_session("s1")
    with pytest.raises(Cancelled):
        claim(job)
    with pytest.raises(NotFound):
        store.find_task("t1")


def test_no_ticket_brings_a_deleted_task_back(store: Store, clock: Clock) -> None:
    waiting, running = enqueue(store), claim(enqueue(store, "s2", "t2"))
    again = claim(enqueue(store, "s3", "t3"))
    requeue(again, 3 * PENDING_AGE)
    for session_id in ("s1", "s2", "s3"):
        store.delete_session(session_id)
    clock.move(PENDING_AGE - 2000)
    for job in (waiting, running, again):
        with pytest.raises(Cancelled):
            claim(job)
        with pytest.raises(NotFound):
            heal(job, store)
    clock.move(2 * PENDING_AGE)
    with pytest.raises(NotFound):
        heal(again, store)


@pytest.mark.parametrize("heard", ["before", "after"])
def test_no_ticket_that_a_running_attempt_gave_out_brings_a_deleted_task_back(
    store: Store, clock: Clock, heard: str
) -> None:
    job = claim(enqueue(store))
    told = Change(ticket=3 * PENDING_AGE)
    if heard == "before":
        assert job.append(change=told).verdict is Verdict.STORED
    store.delete_session("s1")
    if heard == "after":
        assert job.append(change=told).verdict is Verdict.DELETED
    clock.move(3 * PENDING_AGE - 5000)
    with pytest.raises(NotFound):
        heal(job, store)


# Replaced


def test_a_replaced_task_that_only_waits_is_cancelled_at_once(store: Store, clock: Clock) -> None:
    waiting, pending = enqueue(store), begin(store, a_session("s2"), a_task("t2", pending=True))
    clock.move(10)
    new = enqueue(store, "s3", "t3", "replace")
    assert new.begun.stopping == []
    for job in (waiting, pending):
        assert (job.task.state, job.task.cancel_requested_at) == (TaskState.CANCELLED, clock.now)
        assert job.texts() == ["end"]
    with pytest.raises(Cancelled):
        claim(waiting)
    assert pending.beat().verdict is Verdict.CLOSED
    assert claim(new).task.state is TaskState.RUNNING


def test_who_claims_a_replacing_task_waits_under_a_lease_for_those_that_have_to_stop(
    store: Store, clock: Clock
) -> None:
    first, second = claim(enqueue(store)), begin(store, a_session("s2"), a_task("t2"))
    new = enqueue(store, "s3", "t3", "replace")
    assert sorted(new.begun.stopping) == ["t1", "t2"]
    clock.move(LEASE - 1)
    first.beat()
    clock.move(1)
    worker = claim(new)
    assert worker.begun.stopping == ["t1"]
    assert (worker.task.state, worker.task.started_at) == (TaskState.PENDING, None)
    assert worker.task.deadline == clock.now + LEASE
    with pytest.raises(TaskRunning):
        claim(new, "second")
    assert claim(new).begun.stopping == ["t1"]
    first.end("cancelled")
    assert claim(new).begun.stopping == []
    worker.append(change=Change(running=True))
    assert (worker.task.state, worker.task.started_at) == (TaskState.RUNNING, clock.now)
    assert second.task.state is TaskState.CANCELLED


def test_reject_counts_a_task_that_waits_in_a_queue(store: Store, kind: Kind) -> None:
    enqueue(store)
    with pytest.raises(TaskRunning):
        enqueue(store, "s2", "t2", "reject")
    assert says_nothing(store, lambda: store.find_task("t2"))
    if kind.client is not None:
        assert kind.client.keys("sessionstatus:task:*") == [b"sessionstatus:task:t1"]


# Left to the queue


def test_a_task_that_is_left_to_its_queue_is_pending_with_its_next_attempt(store: Store, clock: Clock) -> None:
    first = claim(enqueue(store))
    first.append(["a"], change=Change(current=1, total=2, remaining=5))
    clock.move(1000)
    answer = first.append(["b"], end=End("pending", wait=PENDING_AGE + 60_000))
    assert (answer.verdict, answer.number) == (Verdict.STORED, 2)
    task = first.task
    assert (task.state, task.attempt, task.started_at, task.finished_at) == (TaskState.PENDING, 2, None, None)
    assert (task.progress.current, task.progress.total, task.created_at) == (None, None, START)
    assert (task.deadline, task.tail) == (clock.now + PENDING_AGE + 60_000, 0)
    session = store.session("s1")
    assert session is not None
    assert (session.status, session.expires_at) == (SessionState.ACTIVE, clock.now + PENDING_AGE + 60_000 + TTL)
    assert seen(first) == [(first.epoch, 1, "token"), (first.epoch, 2, "token")]
    for late in (first.append(["late"], base=2), first.beat(), first.end(), first.append(end=End("pending", wait=1))):
        assert late.verdict is Verdict.FENCED
    assert first.task == task


def test_the_next_attempt_begins_with_its_event_when_it_is_claimed(store: Store, clock: Clock) -> None:
    first = claim(enqueue(store))
    first.append(["a"])
    requeue(first)
    clock.move(PENDING_AGE - 2000)
    assert first.task.state is TaskState.PENDING
    second = claim(first, "second")
    assert (second.draft.attempt, second.tail, second.task.state) == (2, 1, TaskState.RUNNING)
    second.append(["b"])
    requeue(second)
    third = claim(first, "third")
    assert third.draft.attempt == 3
    third.end()
    assert seen(third) == [
        (first.epoch, 1, "token"),
        (second.epoch, 1, "attempt"),
        (second.epoch, 2, "token"),
        (third.epoch, 1, "attempt"),
        (third.epoch, 2, "end"),
    ]
    assert third.texts(Cursor(first.epoch, 1)) == ["attempt", "b", "attempt", "end"]


def test_a_task_that_waits_for_its_next_attempt_is_cancelled_at_once(store: Store) -> None:
    first = claim(enqueue(store))
    first.append(["a"])
    requeue(first)
    cancelled = first.cancel()
    assert cancelled is not None
    assert (cancelled.state, cancelled.attempt, cancelled.tail) == (TaskState.CANCELLED, 2, 1)
    with pytest.raises(Cancelled):
        claim(first, "second")
    assert first.texts() == ["a", "end"]


def test_a_task_that_was_asked_to_stop_is_cancelled_instead_of_left_to_its_queue(store: Store) -> None:
    worker = claim(enqueue(store))
    worker.cancel()
    assert worker.append(["a"], end=End("pending", wait=PENDING_AGE)).verdict is Verdict.STORED
    assert (worker.task.state, worker.task.attempt) == (TaskState.CANCELLED, 1)
    assert worker.texts() == ["a", "end"]


def test_any_task_can_be_left_to_a_queue(store: Store) -> None:
    job = begin(store)
    requeue(job)
    assert claim(job).draft.attempt == 2


# Found by its id alone


def test_a_queued_task_is_found_by_its_id_as_long_as_its_session_lives(store: Store, clock: Clock) -> None:
    job = enqueue(store)
    assert store.find_task("t1") == job.task
    assert says_nothing(store, lambda: store.find_task("t2"))
    clock.move(PENDING_AGE - 2000)
    worker = claim(job)
    for _ in range(2 * TTL // LEASE):
        clock.move(LEASE - 1)
        worker.beat()
    assert store.find_task("t1") == worker.task
    worker.end()
    clock.move(TTL - 2000)
    assert store.find_task("t1") == worker.task
    clock.move(2000)
    assert says_nothing(store, lambda: store.find_task("t1"))


def test_a_task_of_another_owner_leaves_no_place_when_it_is_refused(store: Store) -> None:
    begin(store, a_session("s1", namespace_id="alice"), a_task("t1"))
    with pytest.raises(SessionConflict):
        begin(store, a_session("s2", namespace_id="bob"), a_task("t2", pending=True, leased=False))
    assert says_nothing(store, lambda: store.find_task("t2"))


# Lost by the store


def test_a_waiting_task_that_the_store_lost_is_made_again_and_waits(store: Store, kind: Kind, clock: Clock) -> None:
    job = enqueue(store)
    clock.move(1000)
    store = lose(kind, store)
    assert says_nothing(store, lambda: store.claim(job.ref, "worker"))
    healed = heal(job, store)
    assert (healed.epoch, healed.task.state, healed.task.created_at) == (job.epoch, TaskState.PENDING, START)
    assert store.find_task("t1") == healed.task
    worker = claim(healed)
    assert (worker.draft.attempt, worker.task.state) == (1, TaskState.RUNNING)


def test_followers_of_a_task_that_was_made_again_are_told_that_it_begins_anew(
    store: Store, kind: Kind, clock: Clock
) -> None:
    job = enqueue(store)
    first = claim(job)
    first.append(["a"])
    clock.move(1000)
    store = lose(kind, store)
    second = claim(heal(job, store), "second")
    assert seen(second) == [(second.epoch, 1, "attempt")]
    assert second.epoch > first.epoch


def test_a_worker_whose_task_was_made_again_for_another_is_fenced_out(store: Store, kind: Kind, clock: Clock) -> None:
    job = enqueue(store)
    first = claim(job)
    first.append(["a"])
    clock.move(1000)
    first.store = store = lose(kind, store)
    second = claim(heal(job, store), "second")
    assert first.append(["b"]).verdict is Verdict.FENCED
    assert second.end().verdict is Verdict.STORED


def test_of_two_workers_that_make_a_task_again_one_gets_it(store: Store, kind: Kind) -> None:
    job = enqueue(store)
    store = lose(kind, store)
    results = at_once(*(lambda k=k: claim(heal(job, store), f"worker {k}") for k in range(4)))  # type: ignore[misc]
    assert sum(isinstance(result, TaskRunning) for result in results) == 3
    assert store.find_task("t1") is not None


# Looked after by another process


def test_what_a_worker_has_claimed_is_told_as_long_as_it_works_on_it(store: Store, clock: Clock) -> None:
    job = enqueue(store)
    assert store.claimed(job.ref, "worker") is None
    assert job.task.state is TaskState.PENDING
    worker = claim(job)
    worker.append(["a"])
    clock.move(1000)
    assert store.claimed(job.ref, "worker") == replace(worker.begun, tail=1, now=clock.now)
    assert store.claimed(job.ref, "second") is None
    clock.move(LEASE)  # lost, and its process may still come back
    assert store.claimed(job.ref, "worker") is not None
    requeue(worker)
    assert store.claimed(job.ref, "worker") is None
    assert (job.task.state, job.task.attempt) == (TaskState.PENDING, 2)
    second = claim(job)
    assert store.claimed(job.ref, "worker") == replace(second.begun, now=clock.now)
    second.end("error", error_type="ValueError")
    assert store.claimed(job.ref, "worker") is None
    assert (job.task.state, job.task.attempt) == (TaskState.ERROR, 2)


def test_nothing_is_claimed_of_a_task_that_is_not_there(store: Store) -> None:
    job = enqueue(store)
    assert says_nothing(store, lambda: store.claimed(replace(job.ref, task_id="t2"), "worker"))
    assert says_nothing(store, lambda: store.claimed(replace(job.ref, session_id="s2"), "worker"))
    claim(job)
    store.delete_session("s1")
    with pytest.raises(Cancelled):
        store.claimed(job.ref, "worker")


# Ended by another process


def test_an_end_from_another_process_follows_what_the_worker_stored(store: Store, clock: Clock) -> None:
    worker = claim(enqueue(store))
    watching = claim(worker)
    worker.append(["a", "b"])
    clock.move(1000)
    end = End("error", "TimeLimit", "It took too long.", forced=True)
    assert watching.append(end=end, floor=watching.tail).verdict is Verdict.STORED
    task = worker.task
    assert (task.state, task.error_type, task.error_message) == (TaskState.ERROR, "TimeLimit", "It took too long.")
    assert (task.finished_at, task.tail) == (clock.now, 3)
    page = worker.page()
    assert page is not None
    assert page.events[-1].data == {
        "state": "error",
        "errorType": "TimeLimit",
        "errorMessage": "It took too long.",
        "taskId": "t1",
    }
    for late in (worker.append(["c"]), worker.end(), worker.beat()):
        assert late.verdict is Verdict.CLOSED
    assert worker.texts() == ["a", "b", "end"]
    assert claim(worker, "second").draft.attempt == 2


def test_an_end_from_another_process_brings_a_result(store: Store) -> None:
    worker = claim(enqueue(store))
    worker.append(end=End("completed", result="42", forced=True))
    assert (worker.task.state, worker.task.result_available) == (TaskState.COMPLETED, True)
    assert store.result("s1", "t1") == "42"


def test_an_end_from_another_process_changes_nothing_of_one_that_has_ended_or_waits_again(store: Store) -> None:
    end = End("error", "WorkerLost", forced=True)
    ended, waiting = claim(enqueue(store)), claim(enqueue(store, "s2", "t2"))
    ended.end(result="1")
    requeue(waiting)
    for job in (ended, waiting):
        before = job.page()
        answer = job.append(end=end, base=0)
        assert answer.verdict is (Verdict.STORED if job is ended else Verdict.FENCED)
        assert job.page() == before


def test_a_session_hears_of_the_attempt_that_a_worker_begins(kind: Kind, store: Store) -> None:
    job = enqueue(store)
    heard, channel = Heard(kind, store), store.session_channel("c1", "s1")
    heard.watch(channel)
    claim(job)
    assert heard.until(channel)
