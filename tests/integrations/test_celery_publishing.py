"""Messages of tracked tasks: begun with their headers, sent or not, and worked on in place where Celery is eager."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, Signature, chain, group
from celery import Task as CeleryTask
from celery.exceptions import OperationalError
from flask import Flask
from integrations.conftest import Host
from kombu.exceptions import EncodeError
from servers import free_port

from flask_sessionstatus import (
    ConfigurationError,
    Run,
    SessionStatus,
    Task,
    TaskRunning,
    TaskState,
    current_run,
)
from flask_sessionstatus.integrations import celery as tracking
from flask_sessionstatus.integrations.celery.messages import mark_sent
from flask_sessionstatus.tickets import Ticket

HEADER = "sessionstatus"
AGE_MS = 3_600_000


@pytest.fixture
def make_celery() -> Iterator[Callable[..., Celery]]:
    made: list[Celery] = []

    def make(broker: str = "memory://", **settings: Any) -> Celery:
        app = Celery("publishing", broker=broker, backend="cache+memory://", set_as_current=False)
        app.conf.update(task_publish_retry=False, task_default_queue=str(uuid4()), **settings)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def celery_app(make_celery: Callable[..., Celery]) -> Celery:
    return make_celery()


@pytest.fixture
def broken(make_celery: Callable[..., Celery]) -> Celery:
    """A Celery app whose broker is not there."""
    once = {"max_retries": 1, "interval_start": 0, "interval_step": 0}
    return make_celery(f"redis://127.0.0.1:{free_port()}/0", broker_transport_options=once)


def track(conversation_id: str = "c1", **options: Any) -> dict[str, str]:
    return tracking.track(conversation_id, namespace_id="u1", **options)


def task_of(host: Host, headers: dict[str, str]) -> Task:
    ticket = Ticket.parse(headers[HEADER])
    found = host.state.store.task(ticket.session.session_id, ticket.task.task_id)
    assert found is not None
    return found  # type: ignore[no-any-return]


# Begun


def test_a_task_is_pending_from_its_headers_on_and_stays_so_when_its_message_was_sent(
    host: Host, celery_app: Celery
) -> None:
    with host.app.app_context():
        headers = track(session_id="s1", type="report", metadata={"a": 1})
        before = task_of(host, headers)
        celery_app.send_task("any", headers=headers)
    after = task_of(host, headers)
    assert after == before
    assert (after.state, after.session_id, after.type) == (TaskState.PENDING, "s1", "report")


def test_the_caller_of_the_request_owns_it(host: Host, celery_app: Celery) -> None:
    @host.app.post("/ask")
    def ask() -> str:
        headers = tracking.track("c1")
        celery_app.send_task("any", headers=headers)
        return headers[HEADER]

    answer = host.app.test_client().post("/ask")
    assert task_of(host, {HEADER: answer.text}).namespace_id == "u1"


def test_headers_need_an_app_context_and_a_sessionstatus() -> None:
    with pytest.raises(RuntimeError, match="app context"):
        tracking.track("c1")
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match="init_app"):
        tracking.track("c1")


def test_what_refuses_a_task_refuses_it_before_a_message_is_sent(host: Host) -> None:
    with host.app.app_context():
        track()
        with pytest.raises(TaskRunning):
            track(if_running="reject")


def test_a_countdown_is_no_part_of_the_time_that_a_task_may_wait(host: Host, celery_app: Celery) -> None:
    with host.app.app_context():
        headers = track(delay=7200)
        celery_app.send_task("any", countdown=7200, headers=headers)
    task = task_of(host, headers)
    assert task.deadline == task.created_at + AGE_MS + 7_200_000


# Not sent


def test_a_task_whose_message_could_not_be_sent_is_cancelled_with_the_request(host: Host, broken: Celery) -> None:
    seen = []

    @host.app.post("/ask")
    def ask() -> str:
        seen.append(track())
        broken.send_task("any", headers=seen[0])
        return "not reached"

    host.app.testing = False
    assert host.app.test_client().post("/ask").status_code == 500
    assert task_of(host, seen[0]).state is TaskState.CANCELLED


def test_arguments_that_no_message_can_carry_cancel_the_task(host: Host, celery_app: Celery) -> None:
    with host.app.app_context():
        headers = track()
        with pytest.raises(EncodeError):
            celery_app.send_task("any", [object()], headers=headers)
    assert task_of(host, headers).state is TaskState.CANCELLED


def test_arguments_that_the_function_does_not_take_cancel_the_task(host: Host, celery_app: Celery) -> None:
    @celery_app.task(shared=False)
    def take_one(argument: int) -> None: ...

    with host.app.app_context():
        headers = track()
        with pytest.raises(TypeError):
            take_one.apply_async((1, 2), headers=headers)
    assert task_of(host, headers).state is TaskState.CANCELLED


def test_headers_that_nobody_uses_cancel_the_task(host: Host) -> None:
    with host.app.app_context():
        headers = track()
        assert task_of(host, headers).state is TaskState.PENDING
    assert task_of(host, headers).state is TaskState.CANCELLED


def test_a_message_may_be_sent_by_another_thread_of_the_request(host: Host, celery_app: Celery) -> None:
    with host.app.app_context():
        headers = track()
        thread = threading.Thread(target=lambda: celery_app.send_task("any", headers=headers))
        thread.start()
        thread.join()
    assert task_of(host, headers).state is TaskState.PENDING


def test_a_step_that_a_chain_or_a_callback_sends_later_waits_for_that(host: Host, celery_app: Celery) -> None:
    def step(conversation_id: str) -> Signature:
        headers = track(conversation_id)
        waiting.append(headers)
        return celery_app.signature("any").set(headers=headers)

    waiting: list[dict[str, str]] = []
    with host.app.app_context():
        chain(celery_app.signature("any"), step("c1"), step("c2")).apply_async()
        celery_app.signature("any").apply_async(link=step("c3"), link_error=step("c4"))
    assert [task_of(host, each).state for each in waiting] == [TaskState.PENDING] * 4


def test_who_uses_an_idempotency_key_again_sends_the_message_that_could_not_be_sent(
    host: Host, broken: Celery, celery_app: Celery
) -> None:
    with host.app.app_context():
        first = track(idempotency_key="k")
        with pytest.raises(OperationalError):
            broken.send_task("any", headers=first)
    with host.app.app_context():
        second = track(idempotency_key="k")
        celery_app.send_task("any", headers=second)
    assert task_of(host, second) == task_of(host, first)
    assert task_of(host, second).state is TaskState.PENDING
    host.stop(task_of(host, first))
    with host.app.app_context():
        assert track(idempotency_key="k") == {HEADER: task_of(host, first).task_id}


def test_of_several_messages_with_one_ticket_the_first_is_tracked_and_the_others_run_as_ever(
    host: Host, make_celery: Callable[..., Celery], caplog: pytest.LogCaptureFixture
) -> None:
    app = make_celery()
    with host.app.app_context():
        headers = track()
        group(app.signature("any") for _ in range(3)).apply_async(headers=headers)
    with app.connection() as connection, connection.SimpleQueue(app.conf.task_default_queue) as queue:
        messages = [queue.get(timeout=5) for _ in range(3)]
    assert [HEADER in message.headers for message in messages] == [True, False, False]
    assert task_of(host, headers).state is TaskState.PENDING
    assert caplog.text.count("a ticket is for one message") == 2


# In place


class Calling(CeleryTask):
    """A base class as hosts have it."""

    def __call__(self, *args: object, **kwargs: object) -> object:
        return ["called", self.run(*args, **kwargs)]


@pytest.fixture
def eager(host: Host, make_celery: Callable[..., Celery]) -> Celery:
    app = make_celery(task_always_eager=True, task_eager_propagates=False)
    tracking.init(app, host.app)
    return app


def work(host: Host, task: CeleryTask, *args: object) -> tuple[Any, Task]:
    with host.app.app_context():
        headers = track()
        result = task.apply_async(args, headers=headers)
    return result, task_of(host, headers)


def test_what_celery_runs_in_place_is_tracked_as_well(host: Host, eager: Celery) -> None:
    @eager.task(shared=False)
    def double(number: int) -> int:
        current_run.emit("number", {"number": number})
        return 2 * number

    result, task = work(host, double, 21)
    assert (result.get(), task.state, host.types(task)) == (42, TaskState.COMPLETED, ["number", "end"])
    assert host.state.store.result(task.session_id, task.task_id) == "42"
    with pytest.raises(RuntimeError):
        current_run.emit("number")


def test_an_error_a_stop_and_retries_in_place(host: Host, eager: Celery) -> None:
    @eager.task(shared=False)
    def failing() -> None:
        raise ValueError("no")

    @eager.task(shared=False)
    def stopped() -> None:
        run: Run = current_run
        host.stop(run.task)
        assert run.wait_cancelled(10)
        run.check_cancelled()

    @eager.task(bind=True, shared=False)
    def retrying(self: CeleryTask) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return int(current_run.attempt)

    _, task = work(host, failing)
    assert (task.state, task.error_type) == (TaskState.ERROR, "ValueError")
    _, task = work(host, stopped)
    assert task.state is TaskState.CANCELLED
    result, task = work(host, retrying)
    assert (result.get(), task.state, task.attempt) == (3, TaskState.COMPLETED, 3)


def test_a_base_class_of_the_hosts_own_is_called_around_the_run(host: Host, eager: Celery) -> None:
    @eager.task(base=Calling, shared=False)
    def inner(number: int) -> int:
        return number

    result, task = work(host, inner, 1)
    assert result.get() == ["called", 1]
    assert host.state.store.result(task.session_id, task.task_id) == "1"


def test_a_function_that_is_called_directly_is_no_task_of_its_own(host: Host, eager: Celery) -> None:
    @eager.task(shared=False)
    def outer(depth: int) -> str:
        return str(current_run.task_id) if depth == 0 else str(outer(depth - 1))

    assert outer.run is not None
    with pytest.raises(RuntimeError):
        outer(0)
    result, task = work(host, outer, 2)
    assert (result.get(), host.types(task)) == (task.task_id, ["end"])


# Set up


def test_a_celery_app_is_tracked_once(host: Host, celery_app: Celery) -> None:
    tracking.init(celery_app, host.app)
    with pytest.raises(ConfigurationError, match="init once"):
        tracking.init(celery_app, host.app)


def test_a_function_that_makes_the_app_is_called_once_and_where_the_app_is_needed(
    host: Host, make_celery: Callable[..., Celery]
) -> None:
    made = []

    def create_app() -> Flask:
        made.append(host.app)
        return host.app

    app = make_celery(task_always_eager=True)
    tracking.init(app, create_app)

    @app.task(shared=False)
    def work() -> int:
        return 7

    with host.app.app_context():
        headers = [track(f"c{n}") for n in range(2)]
        assert made == []
        for each in headers:
            mark_sent(each[HEADER])
    assert [work.apply_async(headers=each).get() for each in headers] == [7, 7]
    assert made == [host.app]
    assert [task_of(host, each).state for each in headers] == [TaskState.COMPLETED] * 2


def test_an_app_without_a_sessionstatus_is_told_so(make_celery: Callable[..., Celery]) -> None:
    app = make_celery(task_always_eager=True, task_eager_propagates=True)
    tracking.init(app, Flask("bare"))
    host = Host()

    @app.task(shared=False)
    def work() -> None: ...

    with host.app.app_context():
        headers = track()
    with pytest.raises(ConfigurationError, match="init_app"):
        work.apply_async(headers=headers)
    host.state.stop(5)


def one() -> int:
    return 1


def test_each_host_application_has_its_own_celery_app(make_celery: Callable[..., Celery]) -> None:
    hosts = [Host(), Host()]
    tasks = []
    for host in hosts:
        app = make_celery(task_always_eager=True)
        tracking.init(app, host.app)
        tasks.append(app.task(shared=False)(one))
    for host, task in zip(hosts, tasks):
        assert work(host, task)[1].state is TaskState.COMPLETED
        host.state.stop(5)


def test_the_sessionstatus_of_the_present_app_is_used(host: Host) -> None:
    other = Host()
    extension: SessionStatus = other.extension
    with host.app.app_context(), other.app.app_context():
        assert task_of(other, track()).state is TaskState.PENDING
        assert extension.state is other.state
    other.state.stop(5)
