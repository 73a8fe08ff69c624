"""What the tests of queues share: a host that enqueues and looks, and work that is done by hand in a worker process."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any
from uuid import uuid4

import redis
from flask import Flask
from harness import whole_log
from processes.client import wait_until

from flask_sessionstatus import SessionStatus, StoreUnavailable, Task, TaskState
from flask_sessionstatus.stores.base import TaskRef

LEASE = float(os.environ.get("TEST_LEASE", "2"))
HEARTBEAT = LEASE / 4
PATIENCE = 15.0


def settings(storage: str, **others: object) -> dict[str, object]:
    return {"STORAGE_URI": storage, "LEASE": LEASE, "HEARTBEAT": HEARTBEAT, **others}


class Host:
    """The web process."""

    def __init__(self, storage: str, puppets: str | None = None, **others: object) -> None:
        self.storage = storage
        self.puppets = puppets or storage
        self.app = Flask("host")
        self.app.config.update({f"SESSIONSTATUS_{name}": value for name, value in settings(storage, **others).items()})
        self.extension = SessionStatus(self.app, identify=lambda: "u1")
        self.app.register_blueprint(self.extension.create_blueprint(), url_prefix="/api/v1")
        self.state = self.app.extensions["sessionstatus"]
        self.client = redis.Redis.from_url(self.puppets, socket_timeout=None)

    def get(self, path: str) -> Any:
        return self.app.test_client().get(f"/api/v1{path}")

    def close(self) -> None:
        self.state.stop(1)
        self.client.close()


class Puppet:
    """A task whose work a test does by hand: `puppet.puppet(<task id>)`. To be made before its message is sent."""

    def __init__(self, host: Host, conversation_id: str, session_id: str, task_id: str) -> None:
        self.host = host
        self.ref = TaskRef(conversation_id, session_id, task_id)
        self.name = task_id
        self.pid = 0
        self._changes = redis.Redis.from_url(host.storage).pubsub()
        self._changes.subscribe(host.state.store.channel(self.ref))
        assert self._changes.get_message(timeout=5)
        self._states: list[str] = []

    # What the work does

    def begins(self, attempt: int = 1) -> None:
        """Wait until a worker has begun it."""
        said = self.answer()
        assert said["attempt"] == attempt
        self.pid = said["pid"]

    def tell(self, command: str, *args: Any) -> None:
        self.host.client.rpush(f"{self.name}:told", json.dumps([command, *args]))

    def answer(self) -> Any:
        said = self.host.client.blpop([f"{self.name}:said"], timeout=PATIENCE)
        assert said is not None, "The work says nothing."
        return json.loads(said[1])

    def do(self, command: str, *args: Any) -> Any:
        """Tell it to do something; returns what came of it."""
        self.tell(command, *args)
        return self.answer()

    # What the host sees

    @property
    def task(self) -> Task:
        found = self.host.state.store.task(self.ref.session_id, self.ref.task_id)
        assert found is not None
        return found  # type: ignore[no-any-return]

    @property
    def state(self) -> str:
        return self.task.state.value

    @property
    def result(self) -> Any:
        text = self.host.state.store.result(self.ref.session_id, self.ref.task_id)
        return None if text is None else json.loads(text)

    def stop(self) -> None:
        assert self.host.state.store.cancel(self.ref) is not None

    def events(self) -> list[str]:
        """The texts of its tokens, and the types of other events."""
        page = whole_log(self.host.state.store, self.ref)
        assert page is not None
        return [event.data["text"] if event.type == "token" else event.type for event in page.events]

    def states(self) -> list[str]:
        """The states that were announced, each as often as the task came to it."""
        while (message := self._changes.get_message(timeout=0.05)) is not None:
            lines = message["data"].split(b"\n")
            record = json.loads(lines[1]) if len(lines) > 1 else {}
            state = f"{record.get('state')} {record.get('attempt')}"
            if record and self._states[-1:] != [state]:
                self._states.append(state)
        return self._states

    def comes_to(self, state: str, within: float = PATIENCE) -> Task:
        wait_until(lambda: self._is(state), within, state)
        return self.task

    def _is(self, state: str) -> bool:
        with suppress(StoreUnavailable):  # one that was away a moment ago is not asked by everybody at once
            found = self.host.state.store.task(self.ref.session_id, self.ref.task_id)
            # A store that lost everything knows it again once somebody says so.
            return found is not None and found.state.value == state
        return False

    def has_ended_once(self, state: str, error_type: str | None = None) -> None:
        """Wait for the end; there is one, with one event, and nothing after it."""
        task = self.comes_to(state)
        assert task.error_type == error_type, task.error_message
        assert self.events().count("end") == 1
        assert self.events()[-1] == "end"
        ends = [each for each in self.states() if TaskState(each.split()[0]).terminal]
        assert ends == self.states()[-1:] == [f"{state} {task.attempt}"]

    def close(self) -> None:
        self._changes.close()


def a_name() -> str:
    return f"c-{uuid4()}"
