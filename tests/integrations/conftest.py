from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from harness import whole_log
from integrations import queued

from flask_sessionstatus import Run, SessionStatus, Task
from flask_sessionstatus.stores.base import TaskRef


class Host:
    """A host application in this process, and what its store has of a task."""

    def __init__(self, storage: str = "memory://", lease: float = 30.0, heartbeat: float = 5.0) -> None:
        self.app = Flask("host")
        settings = {"STORAGE_URI": storage, "LEASE": lease, "HEARTBEAT": heartbeat}
        self.app.config.update({f"SESSIONSTATUS_{name}": value for name, value in settings.items()})
        self.extension = SessionStatus(self.app, identify=lambda: "u1")
        self.state = self.app.extensions["sessionstatus"]

    def task(self, task: Task | Run) -> Task:
        found = self.state.store.task(task.session_id, task.task_id)
        assert found is not None
        return found  # type: ignore[no-any-return]

    def types(self, task: Task) -> list[str]:
        page = whole_log(self.state.store, TaskRef(task.conversation_id, task.session_id, task.task_id))
        assert page is not None
        return [event.type for event in page.events]

    def stop(self, task: Task) -> None:
        with self.app.app_context():
            assert self.extension.cancel(task) is not None


@pytest.fixture(scope="module")
def web(empty_redis: Callable[[], str]) -> Iterator[queued.Host]:
    """The web process of queued work: this one."""
    host = queued.Host(empty_redis())
    yield host
    host.close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.state.stop(5)
