"""Work that waits in a queue: enqueued in one place, taken up in another, once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from flask import Flask
from harness import Clock, Kind
from hosts import frames

from flask_sessionstatus import (
    AlreadyStarted,
    Cancelled,
    InvalidValue,
    NotFound,
    SessionConflict,
    SessionStatus,
    StoreUnavailable,
    Task,
    TaskRunning,
    TaskState,
    current_run,
)
from flask_sessionstatus import state as state_module
from flask_sessionstatus.models import ORIGIN
from flask_sessionstatus.stores.base import Limits, Store, TaskRef
from flask_sessionstatus.streaming.rest import Rest
from flask_sessionstatus.tickets import Ticket

LEASE_MS, AGE_MS = Limits().lease, Limits().max_pending_age


class Process:
    """A process that uses the package: an app, and its extension bound to a store that others may share."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = Flask("host")
        self.app.config["SESSIONSTATUS_STORAGE_URI"] = "memory://"
        monkeypatch.setattr(state_module, "store_from_uri", lambda *_, **__: store)
        self.extension = SessionStatus(self.app, identify=lambda: "u1")
        self.app.register_blueprint(self.extension.create_blueprint(), url_prefix="/api/v1")
        self.state = self.app.extensions["sessionstatus"]
        assert self.state.store is store

    def enqueue(self, conversation_id: str = "c1", **options: Any) -> Task:
        with self.app.app_context():
            return self.extension.enqueue(conversation_id, namespace_id="u1", **options)

    def work(self, ticket: str | None, **options: Any) -> Any:
        assert ticket is not None
        with self.app.app_context():
            return self.extension.work(ticket, **options)

    def task(self, task: Task) -> Task:
        found = self.state.store.task(task.session_id, task.task_id)
        assert found is not None
        return found  # type: ignore[no-any-return]

    def types(self, task: Task) -> list[str]:
        page = self.state.store.events(ref(task), ORIGIN, 1000)
        assert page is not None
        return [event.type for event in page.events]

    def stop(self, task: Task) -> None:
        with self.app.app_context():
            assert self.extension.cancel(task) is not None

    def fall_silent(self) -> None:
        """Renew no lease any more, as a process does that is stopped."""
        beats = self.state.engine.beats
        beats.close()
        beats._thread.join(10)

    def get(self, path: str) -> Any:
        return self.app.test_client().get(f"/api/v1{path}")


def ref(task: Task) -> TaskRef:
    return TaskRef(task.conversation_id, task.session_id, task.task_id)


@pytest.fixture
def web(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    process = Process(store, monkeypatch)
    yield process
    process.state.stop(5)


@pytest.fixture
def worker(kind: Kind, web: Process, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """Another process, where the kind of store can be shared; else the same."""
    if not kind.is_redis:
        yield web
        return
    process = Process(kind.make(), monkeypatch)
    yield process
    process.state.stop(5)


def lose(kind: Kind, *processes: Process) -> None:
    """Let the store forget everything."""
    if kind.client is not None:
        kind.client.delete(*kind.client.keys("sessionstatus:*"))
        return
    for each in processes:
        store = each.state.store
        store.__init__(store.limits, clock=kind.clock)


# Enqueued


def test_an_enqueued_task_is_pending_and_active_until_its_worker_ends_it(
    web: Process, worker: Process, clock: Clock
) -> None:
    task = web.enqueue(session_id="s1", type="report", wire="ai-sdk", metadata={"a": 1})
    assert (task.state, task.session_id, task.type, task.attempt, task.wire) == ("pending", "s1", "report", 1, "ai-sdk")
    assert (task.created_at, task.started_at, task.deadline) == (clock.now, None, clock.now + AGE_MS)
    clock.move(60_000)
    answer = web.get("/conversations/c1/active-session").json
    assert (answer["status"], answer["sessionId"], answer["cursor"]) == ("active", "s1", "0-0")
    shown = web.get(f"/sessions/s1/tasks/{task.task_id}").json
    assert (shown["state"], shown["createdAt"], shown["startedAt"]) == ("pending", clock.now - 60_000, None)
    with worker.work(task.ticket) as run:
        assert current_run.task_id == run.task_id == task.task_id
        assert (run.conversation_id, run.session_id, run.attempt) == ("c1", "s1", 1)
        assert (worker.task(task).state, worker.task(task).started_at) == (TaskState.RUNNING, clock.now)
        run.emit("token", {"text": "a"})
        run.result(42)
    assert (web.task(task).state, web.types(task)) == (TaskState.COMPLETED, ["token", "end"])
    assert web.get(f"/sessions/s1/tasks/{task.task_id}/result").json == 42
    with pytest.raises(RuntimeError):
        current_run.emit("token")


def test_the_task_id_is_enough_as_long_as_the_store_remembers(web: Process, worker: Process, kind: Kind) -> None:
    task = web.enqueue(metadata={"a": 1})
    with worker.work(task.task_id) as run:
        assert (run.task_id, run.session_id) == (task.task_id, task.session_id)
        assert run._session.namespace_id == "u1"
        assert run._session.metadata == {"a": 1}
    lost = web.enqueue("c2")
    lose(kind, web, worker)
    with pytest.raises(NotFound), worker.work(lost.task_id):
        pytest.fail("not reached")


@pytest.mark.parametrize("wrong", ["", "a/b", "{}", None, 7, b"x"])
def test_what_is_neither_a_ticket_nor_an_id_is_refused_at_once(worker: Process, wrong: Any) -> None:
    with worker.app.app_context(), pytest.raises(InvalidValue):
        worker.extension.work(wrong)


def test_work_needs_an_app_context(worker: Process) -> None:
    with pytest.raises(RuntimeError, match="app context"):
        worker.extension.work("t1")


def test_an_exception_of_the_work_is_recorded_and_raised_on(web: Process, worker: Process) -> None:
    task = web.enqueue()
    with pytest.raises(ValueError, match="no"), worker.work(task.ticket):
        raise ValueError("no")
    assert (web.task(task).state, web.task(task).error_type) == (TaskState.ERROR, "ValueError")


def test_a_used_idempotency_key_gives_the_first_task_and_its_ticket_while_it_waits(
    web: Process, worker: Process
) -> None:
    first = web.enqueue(idempotency_key="k", type="report")
    again = web.enqueue(idempotency_key="k")
    assert (again.task_id, again.type) == (first.task_id, "report")
    assert again.ticket is not None
    assert Ticket.parse(again.ticket).task.idempotency_key == "k"
    with worker.work(again.ticket):
        with pytest.raises(TaskRunning), worker.work(first.ticket):
            pytest.fail("not reached")
        assert web.enqueue(idempotency_key="k").ticket is None
    assert web.enqueue(idempotency_key="k").state is TaskState.COMPLETED


def test_a_task_that_its_queue_holds_back_may_wait_as_much_longer(
    web: Process, worker: Process, kind: Kind, clock: Clock
) -> None:
    task = web.enqueue(delay=7200)
    assert task.deadline == clock.now + 7_200_000 + AGE_MS
    clock.move(7_200_000 + AGE_MS - 3000)
    assert web.task(task).state is TaskState.PENDING
    lose(kind, web, worker)
    with worker.work(task.ticket):
        assert web.task(task).state is TaskState.RUNNING
    for wrong in (-1, float("nan"), 1e10):
        with pytest.raises(InvalidValue):
            web.enqueue(delay=wrong)


def test_an_enqueue_that_is_rejected_says_so(web: Process) -> None:
    web.enqueue()
    with pytest.raises(TaskRunning):
        web.enqueue(if_running="reject")
    with web.app.app_context(), pytest.raises(SessionConflict):
        web.extension.enqueue("c1", namespace_id="u2")


# Delivered twice


def test_a_message_that_is_delivered_twice_is_worked_on_once(web: Process, worker: Process) -> None:
    task = web.enqueue()
    with worker.work(task.ticket):
        for ticket in (task.ticket, task.task_id):
            with pytest.raises(TaskRunning), web.work(ticket):
                pytest.fail("not reached")
    with pytest.raises(AlreadyStarted) as done, web.work(task.ticket):
        pytest.fail("not reached")
    assert done.value.task.state is TaskState.COMPLETED


def test_a_message_of_a_lost_worker_is_a_new_attempt_and_the_lost_one_is_told_to_stop(
    web: Process, worker: Process, clock: Clock
) -> None:
    task = web.enqueue()
    first = worker.work(task.ticket).begin()
    first.emit("token", {"text": "a"})
    assert first.flush(5)
    worker.fall_silent()
    clock.move(LEASE_MS)
    with web.work(task.ticket) as second:
        assert second.attempt == 2
        first.heartbeat()
        assert first.cancelled
        with pytest.raises(Cancelled):
            first.emit("token", {"text": "late"})
        second.emit("token", {"text": "b"})
    assert (web.task(task).state, web.task(task).attempt) == (TaskState.COMPLETED, 2)
    assert web.types(task) == ["token", "attempt", "token", "end"]


def test_a_message_of_a_failed_attempt_is_a_new_one(web: Process, worker: Process) -> None:
    task = web.enqueue()
    for attempt in (1, 2):
        run = worker.work(task.ticket).begin()
        assert run.attempt == attempt
        run.finish(TaskState.ERROR, ValueError("no"))
    with worker.work(task.ticket) as run:
        assert run.attempt == 3
    assert web.task(task).error_type is None
    assert web.types(task) == ["end", "attempt", "end", "attempt", "end"]


# Stopped


def test_who_has_the_message_can_stop_a_task_that_will_not_be_worked_on(web: Process, worker: Process) -> None:
    task = web.enqueue()
    stopped = worker.work(task.ticket).stop()
    assert (stopped.task_id, stopped.state) == (task.task_id, TaskState.CANCELLED)
    assert web.types(task) == ["end"]


@pytest.mark.parametrize("by", ["ticket", "task_id"])
def test_a_task_that_was_stopped_while_it_waited_is_not_worked_on(web: Process, worker: Process, by: str) -> None:
    task = web.enqueue()
    assert web.app.test_client().post("/api/v1/conversations/c1/stop").status_code == 202
    for _ in range(2):
        with pytest.raises(Cancelled), worker.work(getattr(task, by)):
            pytest.fail("not reached")
    assert (web.task(task).state, web.types(task)) == (TaskState.CANCELLED, ["end"])


@pytest.mark.parametrize("by", ["ticket", "task_id"])
def test_a_task_that_was_deleted_while_it_waited_is_not_worked_on(
    web: Process, worker: Process, clock: Clock, by: str
) -> None:
    task = web.enqueue()
    with web.app.app_context():
        assert web.extension.sessions.delete(task.session_id)
    clock.move(AGE_MS - 2000)
    with pytest.raises(Cancelled), worker.work(getattr(task, by)):
        pytest.fail("not reached")
    assert web.get("/conversations/c1/active-session").status_code == 404


def test_a_task_that_is_stopped_while_it_runs_ends_its_block(web: Process, worker: Process) -> None:
    task = web.enqueue()
    with worker.work(task.ticket) as run:
        web.stop(task)
        assert run.wait_cancelled(10)
        run.check_cancelled()
        pytest.fail("not reached")
    assert web.task(task).state is TaskState.CANCELLED


# Left to the queue


def test_a_worker_can_leave_the_task_to_its_queue(web: Process, worker: Process, clock: Clock) -> None:
    task = web.enqueue()
    with worker.work(task.ticket) as run:
        run.emit("token", {"text": "a"})
        ticket = run.retry(delay=60)
    waiting = web.task(task)
    assert (waiting.state, waiting.attempt, waiting.deadline) == (TaskState.PENDING, 2, clock.now + AGE_MS + 60_000)
    assert web.get("/conversations/c1/active-session").json["status"] == "active"
    assert web.types(task) == ["token"]
    assert (Ticket.parse(ticket).task.attempt, Ticket.parse(ticket).until) == (
        2,
        pytest.approx(waiting.deadline, abs=5000),
    )
    clock.move(60_000)
    with worker.work(ticket) as run:
        assert run.attempt == 2
    assert web.types(task) == ["token", "attempt", "end"]


def test_a_ticket_that_was_given_out_before_a_delete_brings_nothing_back(
    web: Process, worker: Process, clock: Clock
) -> None:
    task = web.enqueue(session_id="s1")
    with worker.work(task.ticket) as run:
        ticket = run.retry(delay=5 * AGE_MS / 1000)
        assert web.state.store.delete_session("s1")
    clock.move(4 * AGE_MS)
    with pytest.raises(Cancelled), worker.work(ticket):
        pytest.fail("not reached")


def test_a_ticket_that_is_given_out_after_a_delete_makes_nothing_again(
    web: Process, worker: Process, clock: Clock
) -> None:
    task = web.enqueue(session_id="s1")
    with worker.work(task.ticket) as run:
        assert web.state.store.delete_session("s1")
        with suppress(Cancelled):  # it may have heard of it already
            run.emit("token")
        assert run.wait_cancelled(5)
        ticket = run.retry(delay=5 * AGE_MS / 1000)
    clock.move(4 * AGE_MS)
    with pytest.raises(NotFound), worker.work(ticket):
        pytest.fail("not reached")


def test_an_exception_does_not_end_a_task_that_is_left_to_its_queue(web: Process, worker: Process) -> None:
    task = web.enqueue()
    with pytest.raises(ValueError, match="no"), worker.work(task.ticket):
        raise ValueError(f"no: {current_run.retry()}")
    assert (web.task(task).state, web.task(task).error_type) == (TaskState.PENDING, None)
    with worker.work(task.ticket) as run:
        assert run.attempt == 2
    assert web.types(task) == ["attempt", "end"]


def test_a_worker_that_left_its_task_to_the_queue_does_not_hold_it(web: Process, worker: Process) -> None:
    task = web.enqueue()
    with worker.work(task.ticket) as run:
        run.retry()
    before = web.task(task)
    worker.state.engine.beats.beat()
    assert web.task(task) == before
    with pytest.raises(InvalidValue):
        run.emit("token")


def test_a_task_that_was_asked_to_stop_is_not_left_to_its_queue(web: Process, worker: Process) -> None:
    task = web.enqueue()
    with worker.work(task.ticket) as run:
        run.emit("token")
        run.retry()
        web.stop(task)
    assert (web.task(task).state, web.types(task)) == (TaskState.CANCELLED, ["token", "end"])


def test_a_stop_between_two_attempts_ends_the_task(web: Process, worker: Process) -> None:
    task = web.enqueue()
    with worker.work(task.ticket) as run:
        ticket = run.retry()
    web.stop(task)
    for each in (ticket, task.ticket):
        with pytest.raises(Cancelled), worker.work(each):
            pytest.fail("not reached")
    assert web.task(task).state is TaskState.CANCELLED


def test_followers_stay_over_a_retry_and_see_its_attempt_event(web: Process, worker: Process) -> None:
    task = web.enqueue(session_id="s1")
    received: list[bytes] = []

    def follow() -> None:
        response = web.app.test_client().get("/api/v1/conversations/c1/resume/s1", buffered=False)
        received.extend(response.response)

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    with worker.work(task.ticket) as run:
        run.emit("token", {"text": "a"})
        ticket = run.retry()
    with worker.work(ticket) as run:
        run.emit("token", {"text": "b"})
    follower.join(15)
    assert not follower.is_alive()
    seen = frames(b"".join(received))
    told = [(frame["event"], frame["data"]) for frame in seen if frame["event"] != "status"]
    assert [event for event, _ in told] == ["token", "attempt", "token", "end"]
    assert (told[1][1], told[3][1]["state"]) == ({"attempt": 2}, "completed")
    epochs = [int(frame["id"].split("-")[0]) for frame in seen if "id" in frame]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 2


# Replaced


def test_a_replacing_worker_waits_until_the_replaced_one_has_stopped(web: Process, worker: Process) -> None:
    first = web.enqueue()
    entered, order = threading.Event(), []

    def work() -> None:
        with worker.work(first.ticket) as run:
            entered.set()
            assert run.wait_cancelled(10)
            order.append("first stopped")
            run.check_cancelled()

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(10)
    second = web.enqueue(if_running="replace")
    assert web.task(first).cancel_requested_at is not None
    with web.work(second.ticket) as run:
        order.append("second started")
        assert web.task(second).state is TaskState.RUNNING
        assert run.attempt == 1
    thread.join(10)
    assert order == ["first stopped", "second started"]
    assert web.task(first).state is TaskState.CANCELLED


def test_a_task_that_is_stopped_while_its_worker_waits_for_another_is_not_worked_on(
    web: Process, worker: Process
) -> None:
    first = web.enqueue()
    with worker.work(first.ticket):
        second = web.enqueue(if_running="replace")
        raised: list[BaseException] = []

        def wait() -> None:
            try:
                with web.work(second.ticket):
                    pytest.fail("not reached")
            except BaseException as error:  # noqa: BLE001 - looked at below
                raised.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while web.task(second).epoch == second.epoch:  # until it was claimed
            thread.join(0.01)
        assert web.task(second).state is TaskState.PENDING
        web.stop(second)
        thread.join(10)
    assert [type(error) for error in raised] == [Cancelled]
    assert web.task(second).state is TaskState.CANCELLED


# Watched over by another process


@pytest.fixture
def parent(kind: Kind, web: Process, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A process that watches over the worker: with an outbox of its own."""
    process = Process(kind.make() if kind.is_redis else web.state.store, monkeypatch)
    yield process
    if kind.is_redis:
        process.state.stop(5)


def test_processes_of_one_name_hold_a_task_together(
    web: Process, worker: Process, parent: Process, clock: Clock
) -> None:
    task = web.enqueue()
    watch = parent.work(task.ticket, worker="w1").watch()
    run = worker.work(task.ticket, worker="w1").begin()
    with pytest.raises(TaskRunning):
        web.work(task.ticket, worker="w2").begin()
    run.emit("token")
    assert run.flush(5)
    for _ in range(3):  # the worker is silent, and watched over
        clock.move(LEASE_MS - 1)
        parent.state.engine.beats.beat()
    assert web.task(task).state is TaskState.RUNNING
    assert (run.attempt, watch.attempt, watch.cancelled) == (1, 1, False)
    watch.end(TaskState.ERROR, "WorkerLost", "Killed.")
    assert (web.task(task).state, web.task(task).error_type) == (TaskState.ERROR, "WorkerLost")
    assert web.types(task) == ["token", "end"]
    run.finish(TaskState.COMPLETED)
    assert web.task(task).state is TaskState.ERROR


def test_who_watches_hears_of_a_stop_and_not_of_a_retry(web: Process, worker: Process, parent: Process) -> None:
    stopped, retried = web.enqueue("c1"), web.enqueue("c2")
    heard = []
    for task in (stopped, retried):
        watch = parent.work(task.ticket, worker="w").watch()
        watch.on_cancel(lambda task=task: heard.append(task.task_id))  # type: ignore[misc]
    with worker.work(retried.ticket, worker="w") as run:
        run.retry()
    web.stop(stopped)
    parent.state.engine.beats.beat()
    assert heard == [stopped.task_id]
    assert web.task(retried).state is TaskState.PENDING


def test_who_watches_lets_go_and_does_not_end_the_task_with_its_own_process(
    web: Process, worker: Process, parent: Process, clock: Clock
) -> None:
    tasks = [web.enqueue(f"c{n}") for n in range(2)]
    runs = [worker.work(task.ticket, worker="w").begin() for task in tasks]
    left, _ = (parent.work(task.ticket, worker="w").watch() for task in tasks)
    left.leave()
    worker.fall_silent()
    parent.fall_silent()
    clock.move(LEASE_MS)
    parent.state.engine.beats.beat()
    assert [web.task(task).state for task in tasks] == [TaskState.LOST, TaskState.RUNNING]
    parent.state.engine.outbox.close(5)
    assert parent.state.engine.outbox.running() == []
    for run in runs:
        run.finish(TaskState.COMPLETED)
    assert [web.task(task).state for task in tasks] == [TaskState.COMPLETED] * 2


def test_who_joins_watches_over_what_its_worker_has_begun_and_begins_nothing(
    web: Process, worker: Process, parent: Process
) -> None:
    task = web.enqueue()
    work = parent.work(task.ticket, worker="w")
    assert (work.join(), work.waits()) == (None, True)
    with worker.work(task.ticket, worker="w") as run:
        run.emit("token")
        assert run.flush(5)
        watch = work.join()
        assert (watch.attempt, work.waits()) == (1, False)
        assert parent.work(task.ticket, worker="other").join() is None
        watch.end(TaskState.ERROR, "WorkerLost", "Killed.")
        assert run.flush(5)
    assert (web.task(task).state, web.types(task)) == (TaskState.ERROR, ["token", "end"])
    assert (work.join(), work.waits()) == (None, False)


def test_who_watches_can_leave_the_task_to_its_queue(
    web: Process, worker: Process, parent: Process, clock: Clock
) -> None:
    task = web.enqueue()
    run = worker.work(task.ticket, worker="w").begin()
    run.emit("token")
    assert run.flush(5)
    parent.work(task.ticket, worker="w").watch().retry(delay=60)
    found = web.task(task)
    assert (found.state, found.attempt, found.deadline) == (TaskState.PENDING, 2, clock.now + AGE_MS + 60_000)
    run.finish(TaskState.COMPLETED)
    with worker.work(task.ticket) as again:
        assert again.attempt == 2
    assert web.types(task) == ["token", "attempt", "end"]


def test_a_run_that_is_left_stays_for_who_watches_over_it(
    web: Process, worker: Process, parent: Process, clock: Clock
) -> None:
    task = web.enqueue()
    watch = parent.work(task.ticket, worker="w").watch()
    parent.fall_silent()
    run = worker.work(task.ticket, worker="w").begin()
    run.__enter__()
    run.emit("token")
    run.leave()
    with pytest.raises(RuntimeError):
        current_run.emit("token")
    assert web.types(task) == ["token"]
    assert worker.state.engine.outbox.running() == []
    clock.move(LEASE_MS - 1)
    worker.state.engine.beats.beat()
    worker.state.stop(5)
    assert web.task(task).state is TaskState.RUNNING
    clock.move(1)
    if worker is not web:
        assert web.task(task).state is TaskState.LOST
        watch.end(TaskState.ERROR, "WorkerLost")
        assert web.task(task).state is TaskState.ERROR


def away(*_: object) -> Any:
    raise StoreUnavailable("away")


def test_what_a_child_could_not_store_before_it_left_its_parent_stores(
    web: Process, worker: Process, parent: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = web.enqueue()
    watch = parent.work(task.ticket).watch()
    run = watch.run(worker.state.engine)
    run.emit("a")
    assert run.flush(5)
    with monkeypatch.context() as outage:
        outage.setattr(worker.state.store, "append", away)
        run.emit("b")
        run.progress(1, 2)
        run.result("é")
        run.finish(TaskState.COMPLETED)
        rest = run.hand_over()
        assert rest is not None
        assert Rest.parse(str(rest)) == rest
        watch.take_over(Rest.parse(str(rest)))
        if worker is web:  # they share a store: it comes back
            outage.undo()
        assert parent.state.engine.outbox.close(5)
    assert (web.task(task).state, web.types(task)) == (TaskState.COMPLETED, ["a", "b", "end"])
    assert web.state.store.result(task.session_id, task.task_id) == '"é"'


def test_what_a_child_has_stored_it_need_not_hand_over(web: Process, worker: Process, parent: Process) -> None:
    task = web.enqueue()
    run = parent.work(task.ticket).watch().run(worker.state.engine)
    run.emit("a")
    run.finish(TaskState.COMPLETED)
    assert run.hand_over() is None


def test_what_a_child_handed_over_outlives_a_store_that_lost_it(
    web: Process, worker: Process, parent: Process, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = web.enqueue()
    watch = parent.work(task.ticket).watch()
    run = watch.run(worker.state.engine)
    worker.fall_silent()
    with monkeypatch.context() as outage:
        outage.setattr(worker.state.store, "append", away)
        run.emit("a")
        run.finish(TaskState.COMPLETED)
        rest = run.hand_over()
    assert rest is not None
    watch.take_over(rest)
    assert parent.state.engine.outbox.flush(watch._entry, 5)
    lose(kind, web, worker)
    parent.state.engine.beats.beat()
    assert parent.state.engine.outbox.flush(watch._entry, 5)
    assert (web.task(task).state, web.types(task)) == (TaskState.COMPLETED, ["a", "end"])


# The store lost it


def test_a_task_that_the_store_lost_is_made_again_from_its_ticket(
    web: Process, worker: Process, kind: Kind, clock: Clock
) -> None:
    task = web.enqueue(session_id="s1", type="report", metadata={"a": 1}, idempotency_key="k")
    created = clock.now
    lose(kind, web, worker)
    clock.move(60_000)
    with worker.work(task.ticket) as run:
        assert run.attempt == 1
        run.emit("token")
    found = web.task(task)
    assert (found.state, found.type, found.created_at, found.attempt) == (TaskState.COMPLETED, "report", created, 1)
    with web.app.app_context():
        session = web.extension.sessions.get("s1")
    assert session is not None
    assert (session.namespace_id, session.metadata, session.created_at) == ("u1", {"a": 1}, created)
    assert web.enqueue(idempotency_key="k").task_id == task.task_id


def test_a_ticket_that_is_too_old_makes_nothing_again(web: Process, worker: Process, kind: Kind, clock: Clock) -> None:
    task = web.enqueue()
    lose(kind, web, worker)
    clock.move(AGE_MS)
    with pytest.raises(NotFound), worker.work(task.ticket):
        pytest.fail("not reached")


def test_a_running_attempt_is_stored_again_with_its_attempt_event(web: Process, worker: Process, kind: Kind) -> None:
    task = web.enqueue()
    with worker.work(task.ticket) as run:
        run.retry()
    with worker.work(task.ticket) as run:
        run.emit("token")
        assert run.flush(5)
        lose(kind, web, worker)
        run.emit("token")
    assert (web.task(task).state, web.task(task).attempt) == (TaskState.COMPLETED, 2)
    assert web.types(task) == ["attempt", "token", "token", "end"]


class Unsure:
    """A store whose answers to some calls get lost, after it did what was asked."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.losses: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if name not in ("begin", "claim"):
            return value

        def call(*args: Any, **options: Any) -> Any:
            result = value(*args, **options)
            if self.losses.get(name, 0):
                self.losses[name] -= 1
                raise StoreUnavailable("lost")
            return result

        return call


def test_an_answer_that_got_lost_is_asked_for_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    unsure = Unsure(store)
    process = Process(unsure, monkeypatch)  # type: ignore[arg-type]
    unsure.losses = {"begin": 1, "claim": 1}
    task = process.enqueue()
    with process.work(task.ticket) as run:
        assert run.attempt == 1
    assert (unsure.losses, process.types(task)) == ({"begin": 0, "claim": 0}, ["end"])
    unsure.losses = {"begin": 2}
    with pytest.raises(StoreUnavailable):
        process.enqueue()
    process.state.stop(5)


def test_while_the_store_recovers_a_worker_waits_for_who_may_make_the_task_again(
    web: Process, worker: Process, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = web.enqueue()
    first = web.work(task.ticket).begin()
    lose(kind, web, worker)
    asked = iter([True, True])

    def recovering(_: object) -> bool:
        if next(asked, False):
            return True
        pytest.fail("The task is there again: nobody has to ask.")

    def beat_when_asked(store: Store, ref: TaskRef, token: str) -> Any:
        found = claim(store, ref, token)
        if found is None:
            web.state.engine.beats.beat()
        return found

    kind_of_store = type(worker.state.store)
    claim: Callable[..., Any] = kind_of_store.claim
    monkeypatch.setattr(kind_of_store, "recovering", property(recovering))
    monkeypatch.setattr(kind_of_store, "claim", beat_when_asked)
    with pytest.raises(TaskRunning), worker.work(task.ticket):
        pytest.fail("not reached")
    monkeypatch.undo()
    first.finish(TaskState.COMPLETED)
    assert web.task(task).state is TaskState.COMPLETED


def test_a_process_that_is_ending_takes_up_nothing(web: Process, worker: Process) -> None:
    task = web.enqueue()
    worker.state.engine.hub.close()
    with pytest.raises(StoreUnavailable), worker.work(task.ticket):
        pytest.fail("not reached")
    assert web.task(task).state is TaskState.PENDING


# In asyncio


def test_async_with_works_on_a_task_and_refuses_as_with_does(web: Process, worker: Process) -> None:
    task, stopped, again = web.enqueue("c1"), web.enqueue("c2"), web.enqueue("c3")
    web.stop(stopped)

    async def work() -> None:
        async with worker.work(task.ticket) as run:
            assert current_run.task_id == run.task_id == task.task_id
            run.emit("token")
        for each, error in ((stopped, Cancelled), (task, AlreadyStarted)):
            with pytest.raises(error):
                async with worker.work(each.ticket):
                    pytest.fail("not reached")
        async with worker.work(again.ticket) as run:
            run.retry()

    asyncio.run(work())
    assert (web.task(task).state, web.types(task)) == (TaskState.COMPLETED, ["token", "end"])
    assert (web.task(again).state, web.task(again).attempt) == (TaskState.PENDING, 2)


def test_a_coroutine_that_is_cancelled_while_it_takes_up_its_task_leaves_it_cancelled(
    web: Process, worker: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = web.enqueue()
    asked, answer = threading.Event(), threading.Event()
    claim: Callable[..., Any] = type(worker.state.store).claim

    def slowly(*args: Any) -> Any:
        found = claim(*args)
        asked.set()
        assert answer.wait(10)
        return found

    monkeypatch.setattr(type(worker.state.store), "claim", slowly)

    async def work() -> None:
        async with worker.work(task.ticket):
            pytest.fail("not reached")

    async def main() -> None:
        working = asyncio.create_task(work())
        await asyncio.to_thread(asked.wait, 10)
        working.cancel()
        await asyncio.sleep(0)
        answer.set()
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(main())
    assert web.task(task).state is TaskState.CANCELLED


def test_a_coroutine_that_is_cancelled_while_it_waits_for_another_leaves_its_task_cancelled(
    web: Process, worker: Process
) -> None:
    first = worker.work(web.enqueue().ticket).begin()
    second = web.enqueue(if_running="replace")

    async def work() -> None:
        async with worker.work(second.ticket):
            pytest.fail("not reached")

    async def main() -> None:
        working = asyncio.create_task(work())
        while web.task(second).epoch == second.epoch:
            await asyncio.sleep(0.005)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(working, 10)

    asyncio.run(main())
    assert web.task(second).state is TaskState.CANCELLED
    first.finish(TaskState.CANCELLED)
