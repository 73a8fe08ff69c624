"""Messages of dramatiq as tasks, in real workers on a real Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dramatiq
import psutil
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.worker import Worker
from faults.stores import FaultyRedis
from flask import Flask
from integrations.queued import LEASE, PATIENCE, Host, Puppet, a_name, settings
from processes.client import wait_until

from flask_sessionstatus import AlreadyStarted
from flask_sessionstatus.errors import ConfigurationError
from flask_sessionstatus.integrations import dramatiq as tracking

FOLDER = Path(__file__).parent


class Messages:
    """A broker of its own, and the worker processes that serve it."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.queue = a_name()
        self.broker = RedisBroker(url=host.puppets, namespace=self.queue)
        self.broker.add_middleware(tracking.Middleware(host.app))
        self._folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []
        self._sent: list[Puppet] = []

    def worker(self) -> subprocess.Popen[bytes]:
        """Start `dramatiq` with one process of two threads."""
        environment = {
            **os.environ,
            **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings(self.host.storage).items()},
            "PYTHONPATH": os.pathsep.join([str(FOLDER), os.environ.get("PYTHONPATH", "")]),
            "PUPPETS": self.host.puppets,
            "BROKER": self.host.puppets,
            "QUEUE": self.queue,
            "dramatiq_worker_timeout": "100",  # ms: how long it sleeps at most when there is nothing to do
        }
        command = [sys.executable, "-m", "dramatiq", "dramatiq_host", "--processes", "1", "--threads", "2"]
        with (self._folder / "dramatiq.log").open("ab") as output:
            self._workers.append(
                subprocess.Popen(command, env=environment, cwd=FOLDER, stdout=output, stderr=subprocess.STDOUT)
            )
        return self._workers[-1]

    def log(self) -> str:
        """What the workers said."""
        return (self._folder / "dramatiq.log").read_text()

    def options(self, conversation_id: str, **options: Any) -> dict[str, Any]:
        with self.host.app.app_context():
            return tracking.track(conversation_id, namespace_id="u1", **options)

    def send(
        self, actor: str = "puppet", tracked: dict[str, Any] | None = None, delay: int | None = None, **options: Any
    ) -> Puppet:
        """A tracked message to an actor of dramatiq_host.py, by default the puppet."""
        conversation_id = a_name()
        track = self.options(conversation_id, **(tracked or {}))
        ids = track["sessionstatus"]
        puppet = Puppet(self.host, conversation_id, ids["session_id"], ids["task_id"])
        self._sent.append(puppet)
        self.enqueue(actor, (puppet.name,) if actor.endswith("puppet") else (), delay, **track, **options)
        return puppet

    def enqueue(self, actor: str, arguments: tuple[Any, ...] = (), delay: int | None = None, **options: Any) -> None:
        message = dramatiq.Message("default", actor, arguments, {}, options)
        self.broker.declare_queue("default")
        self.broker.enqueue(message, delay=delay)

    def dead(self) -> int:
        """How many messages were rejected."""
        count: int = self.broker.client.zcard(f"{self.queue}:default.XQ")  # type: ignore[assignment]
        return count

    def waiting(self) -> int:
        return self.broker.do_qsize("default")  # type: ignore[no-any-return]

    def is_done(self) -> None:
        """Wait until no message waits or is worked on."""
        wait_until(lambda: self.waiting() == 0, PATIENCE, "all messages are done with")

    def close(self) -> None:
        for worker in self._workers:
            for each in [*psutil.Process(worker.pid).children(recursive=True)] if worker.poll() is None else []:
                each.kill()
            worker.kill()
            worker.wait(10)
        for puppet in self._sent:
            puppet.close()
        self.broker.close()


@pytest.fixture(scope="module")
def shared(web: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Messages]:
    messages = Messages(web, tmp_path_factory.mktemp("dramatiq"))
    messages.worker()
    yield messages
    messages.close()


@pytest.fixture
def messages(shared: Messages) -> Messages:
    """Messages for a worker that outlives the test."""
    return shared


@pytest.fixture
def fresh(web: Host, tmp_path: Path) -> Iterator[Messages]:
    """Messages for which there is no worker yet."""
    messages = Messages(web, tmp_path)
    yield messages
    messages.close()


# Life


def test_a_message_is_pending_then_running_and_what_its_actor_returns_is_its_result(fresh: Messages) -> None:
    work = fresh.send(tracked={"type": "answer"})
    assert (work.state, work.task.type) == ("pending", "answer")
    fresh.worker()
    work.begins()
    assert work.state == "running"
    work.do("emit", "a")
    assert work.do("name the app") == "host"
    work.tell("return", {"answer": 42})
    work.has_ended_once("completed")
    assert (work.events(), work.result) == (["a", "end"], {"answer": 42})


def test_an_actor_that_knows_nothing_of_tasks_is_one_all_the_same(messages: Messages) -> None:
    work = messages.send("hello")
    work.has_ended_once("completed")
    assert work.result == "hello"


def test_a_coroutine_has_its_run_too(messages: Messages) -> None:
    work = messages.send("coroutine")
    work.has_ended_once("completed")
    assert (work.result, work.events()) == (["host", work.ref.task_id], ["a", "end"])


def test_a_message_that_is_not_tracked_is_worked_on_as_ever(messages: Messages) -> None:
    messages.enqueue("hello")
    messages.is_done()
    assert messages.dead() == 0


def test_a_delayed_message_is_pending_until_then(messages: Messages) -> None:
    work = messages.send("hello", delay=300)
    assert work.state == "pending"
    work.has_ended_once("completed")
    assert [each.split()[0] for each in work.states()] == ["running", "completed"]


def test_a_message_that_comes_twice_is_worked_on_once(messages: Messages) -> None:
    conversation_id = a_name()
    first, again = (messages.options(conversation_id, idempotency_key="april") for _ in range(2))
    assert first["sessionstatus"]["task_id"] == again["sessionstatus"]["task_id"]
    work = Puppet(messages.host, conversation_id, *(first["sessionstatus"][name] for name in ("session_id", "task_id")))
    for options in (first, again):
        messages.enqueue("puppet", (work.name,), **options)
    work.begins()
    work.tell("return", 1)
    work.has_ended_once("completed")
    with pytest.raises(AlreadyStarted):
        messages.options(conversation_id, idempotency_key="april")
    messages.is_done()
    assert messages.host.client.llen(f"{work.name}:said") == 0
    work.close()


@pytest.mark.parametrize("ticket", [None, "a task that never was"])
def test_a_message_whose_ticket_is_no_good_is_rejected(fresh: Messages, ticket: str | None) -> None:
    fresh.worker()
    fresh.enqueue("hello", sessionstatus={"ticket": ticket})
    wait_until(lambda: fresh.dead() == 1, PATIENCE, "the message is rejected")


# Retries


def test_a_retry_is_an_attempt_of_the_same_task_and_its_followers_are_told(messages: Messages) -> None:
    work = messages.send(max_retries=2)
    work.begins(attempt=1)
    work.do("emit", "a")
    work.tell("fail", "ValueError", "no")
    work.begins(attempt=2)
    work.tell("return", 1)
    work.has_ended_once("completed")
    assert work.events() == ["a", "attempt", "end"]
    assert [each.split()[0] for each in work.states()] == ["running", "pending", "running", "completed"]


def test_a_retry_that_an_actor_asks_for_is_pending_meanwhile(messages: Messages) -> None:
    work = messages.send(max_retries=1)
    work.begins()
    work.tell("fail", "Retry", "later")
    assert work.comes_to("pending").attempt == 2
    work.begins(attempt=2)
    work.tell("return", 1)
    work.has_ended_once("completed")


def test_the_last_attempt_that_fails_ends_the_task(messages: Messages) -> None:
    work = messages.send(max_retries=1)
    for attempt in (1, 2):
        work.begins(attempt)
        work.tell("fail", "ValueError", "no")
    work.has_ended_once("error", "ValueError")
    assert (work.task.attempt, work.task.error_message) == (2, "no")


# Ends


def test_an_actor_that_exceeds_its_time_limit_is_an_error_of_its_own_type(messages: Messages) -> None:
    work = messages.send(time_limit=300)
    work.begins()
    work.do("emit", "a")
    work.tell("idle", 10)
    work.has_ended_once("error", "TimeLimitExceeded")
    assert work.events() == ["a", "end"]


def test_an_actor_that_is_aborted_is_cancelled(messages: Messages) -> None:
    work = messages.send()
    work.begins()
    work.tell("fail", "Abort", "")
    work.has_ended_once("cancelled")


def test_an_actor_that_leaves_by_system_exit_is_an_error(messages: Messages) -> None:
    work = messages.send()
    work.begins()
    work.tell("fail", "SystemExit", "enough")
    work.has_ended_once("error", "SystemExit")


def test_a_message_past_its_age_limit_is_an_error(messages: Messages) -> None:
    work = messages.send("hello", max_age=1, delay=100)
    work.has_ended_once("error", "MessageFailed")


def test_a_message_that_other_middleware_skips_is_cancelled(messages: Messages) -> None:
    work = messages.send("hello", skip=True)
    work.has_ended_once("cancelled")


# Stops


def test_a_message_whose_task_was_stopped_while_it_waited_is_not_worked_on(fresh: Messages) -> None:
    work = fresh.send()
    work.stop()
    assert work.state == "cancelled"
    fresh.worker()
    fresh.is_done()
    work.has_ended_once("cancelled")
    assert fresh.dead() == 0


def test_a_message_whose_session_was_deleted_while_it_waited_is_not_worked_on(fresh: Messages) -> None:
    work = fresh.send()
    assert fresh.host.state.store.delete_session(work.ref.session_id)
    fresh.worker()
    fresh.is_done()
    assert fresh.host.client.llen(f"{work.name}:said") == fresh.dead() == 0


def test_an_actor_hears_of_a_stop_and_ends_when_it_looks_and_is_not_tried_again(fresh: Messages) -> None:
    work = fresh.send(max_retries=5)
    fresh.worker()
    work.begins()
    work.stop()
    assert work.do("wait for stop") is True
    work.tell("check")
    work.has_ended_once("cancelled")
    wait_until(lambda: fresh.dead() == 1, PATIENCE, "the message is rejected")
    assert "unhandled exception" not in fresh.log()


# The process


def test_a_process_that_is_killed_is_lost_at_the_leases_end_and_another_takes_its_message_up(fresh: Messages) -> None:
    work = fresh.send()
    worker = fresh.worker()
    work.begins()
    work.do("emit", "a")
    os.kill(work.pid, signal.SIGKILL)
    worker.wait(PATIENCE)
    assert work.state == "running"
    work.comes_to("lost", within=LEASE + 1)
    fresh.worker()
    work.begins(attempt=2)
    work.tell("return", 1)
    work.has_ended_once("completed")
    assert work.events() == ["a", "attempt", "end"]


def test_an_actor_that_holds_the_gil_for_a_lease_is_lost_until_it_lets_go(messages: Messages) -> None:
    work = messages.send()
    work.begins()
    work.tell("hold the gil", int(LEASE) + 1)
    work.comes_to("lost")
    work.comes_to("running")
    work.answer()
    work.tell("return", 1)
    work.has_ended_once("completed")


def test_a_worker_that_is_told_to_end_ends_its_work_first(fresh: Messages) -> None:
    work = fresh.send()
    worker = fresh.worker()
    work.begins()
    worker.send_signal(signal.SIGTERM)
    work.do("emit", "a")
    work.tell("return", 1)
    assert worker.wait(PATIENCE) == 0
    work.has_ended_once("completed")


def test_an_actor_that_is_notified_of_the_shutdown_is_tried_again_by_whoever_has_the_message_next(
    fresh: Messages,
) -> None:
    work = fresh.send("patient_puppet")
    worker = fresh.worker()
    work.begins(attempt=1)
    work.tell("idle", 20)
    worker.send_signal(signal.SIGTERM)
    fresh.worker()
    work.begins(attempt=2)
    work.tell("return", 1)
    work.has_ended_once("completed")
    assert work.states() == ["running 1", "pending 2", "running 2", "completed 2"]
    assert worker.wait(PATIENCE) == 0


# The store


def test_a_message_waits_for_the_store_and_lets_others_pass(redis_url: Callable[[str], str], tmp_path: Path) -> None:
    store = FaultyRedis(persistent=True).start()
    host = Host(store.url, redis_url("newest"))
    messages = Messages(host, tmp_path)
    try:
        work = messages.send()
        store.kill()
        messages.worker()
        wait_until(lambda: "skipped" in messages.log(), PATIENCE, "it is put off")
        store.start()
        work.begins()
        store.kill()
        work.do("emit unstored", "a")
        work.tell("return", 42)
        messages.is_done()
        store.start()
        work.comes_to("completed")
        assert (work.events(), work.result) == (["a", "end"], 42)
    finally:
        messages.close()
        host.close()
        store.remove()


def test_an_app_without_the_extension_is_named() -> None:
    middleware = tracking.Middleware(Flask("bare"))
    with pytest.raises(ConfigurationError, match="'bare' has no SessionStatus"):
        middleware.after_worker_shutdown(RedisBroker(), Worker(RedisBroker()))
