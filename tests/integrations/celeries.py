"""Celery workers in process groups of their own, and a publisher that knows their tasks by name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import redis
from celery import Celery, Signature
from celery.result import AsyncResult
from flask import Flask
from harness import whole_log
from processes.client import wait_until
from servers import RedisServer, newest

from flask_sessionstatus import Event, SessionStatus, StoreUnavailable, Task, TaskState
from flask_sessionstatus.integrations import celery as tracking
from flask_sessionstatus.stores.base import TaskRef
from flask_sessionstatus.tickets import Ticket

LEASE = float(os.environ.get("TEST_LEASE", "2"))
HEARTBEAT = LEASE / 4
FOLDER = Path(__file__).parent
START_WAIT = 30.0
PATIENCE = 15.0


class Worker:
    """`celery worker` with its children, until it is removed."""

    def __init__(self, broker: str, log: Path, *options: str, store: str | None = None, **environment: str) -> None:
        self._log = log
        settings = {"STORAGE_URI": store or broker, "LEASE": LEASE, "HEARTBEAT": HEARTBEAT}
        command = [sys.executable, "-m", "celery", "-A", "celery_host:celery_app", "worker", "--loglevel", "info"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--without-gossip", "--without-mingle", "--without-heartbeat", *options],
                cwd=FOLDER,
                env={
                    **os.environ,
                    **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings.items()},
                    "BROKER": broker,
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self) -> Worker:
        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return " ready." in self.log

        wait_until(ready, START_WAIT, "the worker is ready")
        return self

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone, as a service manager does."""
        self.process.send_signal(number)

    def kill_all(self) -> None:
        """Kill the worker and its children at once, as a machine that loses its power does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def remove(self) -> None:
        """End it and its children, whatever state they are in."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Job:
    """A task that was sent to the workers, by its two names: ours and Celery's."""

    publisher: Publisher
    ref: TaskRef
    message_id: str

    @property
    def result(self) -> AsyncResult[Any]:
        """What Celery knows of it."""
        return self.publisher.celery.AsyncResult(self.message_id)

    @property
    def task(self) -> Task:
        found = self.publisher.state.store.task(self.ref.session_id, self.ref.task_id)
        assert found is not None
        return found

    @property
    def events(self) -> list[Event]:
        page = whole_log(self.publisher.state.store, self.ref)
        assert page is not None
        return list(page.events)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    @property
    def pid(self) -> int:
        """The process that works on it; its task says so with its first event."""
        return int(self.events[-1].data["number"])  # type: ignore[call-overload,index,arg-type]

    def wait(self, state: TaskState, timeout: float = PATIENCE) -> Task:
        """The task, once it is in this state."""
        wait_until(lambda: self._is(state), timeout, str(state))
        return self.task

    def _is(self, state: TaskState) -> bool:
        with suppress(StoreUnavailable):  # one that was away a moment ago is not asked by everybody at once
            found = self.publisher.state.store.task(self.ref.session_id, self.ref.task_id)
            # A store that lost everything knows it again once somebody says so.
            return found is not None and found.state is state
        return False

    def stop(self) -> Task:
        found = self.publisher.state.store.cancel(self.ref)
        assert found is not None
        return found


class Publisher:
    """The web process: a host that begins tasks and sends their messages."""

    def __init__(self, broker: str, store: str | None = None) -> None:
        self.app = Flask("publisher")
        settings = {"STORAGE_URI": store or broker, "LEASE": LEASE, "HEARTBEAT": HEARTBEAT}
        self.app.config.update({f"SESSIONSTATUS_{name}": value for name, value in settings.items()})
        self.extension = SessionStatus(self.app, identify=lambda: "u1")
        self.state = self.app.extensions["sessionstatus"]
        self.celery = Celery("publisher", broker=broker, backend=broker, set_as_current=False)
        self.celery.conf.update(task_publish_retry=False)
        self.signs = redis.Redis.from_url(broker)

    def send(self, name: str, *args: object, options: dict[str, Any] | None = None, **track: Any) -> Job:
        """Begin a task and send the message for the task of this name; `options` are Celery's."""
        return self.send_in(lambda signature: signature.apply_async(**(options or {})), name, *args, **track)

    def send_in(self, send: Callable[[Signature], AsyncResult[Any]], name: str, *args: object, **track: Any) -> Job:
        """Begin a task and have the signature for the task of this name sent."""
        with self.app.app_context():
            headers = tracking.track(str(uuid4()), namespace_id="u1", **track)
            ticket = Ticket.parse(headers["sessionstatus"])
            result = send(self.celery.signature(f"celery_host.{name}", args, headers=headers))
        ref = TaskRef(ticket.session.conversation_id, ticket.session.session_id, ticket.task.task_id)
        return Job(self, ref, result.id)

    def wait_for_sign(self, name: str, times: int = 1) -> None:
        """Wait until the tasks have left this sign so many times."""
        wait_until(lambda: int(self.signs.get(name) or 0) >= times, PATIENCE, f"{times} times the sign {name}")

    def begun(self, name: str, seconds: float = 30.0, **options: Any) -> Job:
        """A task that works for so long, once it has begun."""
        sign = str(uuid4())
        job = self.send(name, sign, seconds, **options)
        self.wait_for_sign(sign)
        return job

    def lose_the_store(self) -> None:
        """Let the store forget everything; the broker keeps its messages."""
        self.signs.delete(*self.signs.keys("sessionstatus:*"))

    def close(self) -> None:
        self.state.stop(5)
        self.celery.close()
        self.signs.close()


@contextmanager
def server() -> Iterator[str]:
    """The URL of a Redis of its own: broker, result backend and store."""
    redis_server = RedisServer(newest())
    redis_server.start()
    try:
        yield redis_server.url
    finally:
        redis_server.remove()


@contextmanager
def publishing(broker: str, store: str | None = None) -> Iterator[Publisher]:
    publisher = Publisher(broker, store)
    try:
        yield publisher
    finally:
        publisher.close()


@contextmanager
def worker(broker: str, folder: Path, *options: str, store: str | None = None, **environment: str) -> Iterator[Worker]:
    """A worker that is ready; its store may be on another server than its broker."""
    started = Worker(broker, folder / f"{uuid4()}.log", *options, store=store, **environment)
    try:
        yield started.wait_until_ready()
    finally:
        started.remove()
