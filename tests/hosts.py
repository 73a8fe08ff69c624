"""Host applications as a user would write them, and how a client reads their streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from flask import Flask
from flask.testing import FlaskClient
from flask_smorest import Api
from harness import Clock, Job, Kind, a_session, a_task, begin
from werkzeug.test import TestResponse

from flask_sessionstatus import SessionStatus
from flask_sessionstatus.stores import Store

PREFIX = "/api/v1"


class Recording:
    """A store that notes which of its methods are called."""

    def __init__(self, store: Store) -> None:
        self.calls: list[str] = []
        self._store = store

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if not callable(value):
            return value

        def noted(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            return value(*args, **options)

        return noted


class Host:
    """A host application, plain or with flask-smorest, whose caller and clock a test sets."""

    def __init__(self, mode: str, kind: Kind, config: dict[str, Any], anonymous: bool = False) -> None:
        self.mode = mode
        self.kind = kind
        self.user: Any = "u1"
        self.app = Flask("host")
        self.app.config.update({"SESSIONSTATUS_STORAGE_URI": "memory://", **config})
        self.extension = SessionStatus(identify=None if anonymous else lambda: self.user)
        if mode == "smorest":
            self.app.config.update(API_TITLE="Host", API_VERSION="1", OPENAPI_VERSION="3.0.3")
            self.api = Api(self.app)
        self.extension.init_app(self.app)
        blueprint = self.extension.create_blueprint()
        if mode == "smorest":
            self.api.register_blueprint(blueprint, url_prefix=PREFIX)
        else:
            self.app.register_blueprint(blueprint, url_prefix=PREFIX)
        self.app.add_url_rule("/conversation-of/<session_id>", view_func=self.conversation_of)
        self.client: FlaskClient = self.app.test_client()

    def conversation_of(self, session_id: str) -> str:
        """A view of the host's own."""
        return self.extension.session_for_caller(session_id).conversation_id

    @property
    def clock(self) -> Clock:
        return self.kind.clock

    @property
    def state(self) -> Any:
        return self.app.extensions["sessionstatus"]

    @property
    def store(self) -> Any:
        return self.state.store

    @property
    def calls(self) -> list[str]:
        found: list[str] = self.store.calls
        return found

    def request(self, method: str, path: str, **options: Any) -> TestResponse:
        return self.client.open(PREFIX + path, method=method, **options)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self.request("POST", path, **options)

    def begin(self, session: str = "s1", conversation: str = "c1", task: str = "t1", **fields: Any) -> Job:
        namespace = fields.pop("namespace_id", "u1")
        return begin(self.store, a_session(session, conversation, namespace), a_task(task, **fields))

    def session(
        self, session: str = "s1", conversation: str = "c1", namespace_id: str | None = "u1", **fields: Any
    ) -> None:
        self.store.create_session(a_session(session, conversation, namespace_id, **fields))

    def reset(self, kind: Kind) -> None:
        """Begin anew, on another store."""
        self.kind = kind
        self.user = "u1"
        hooks = self.extension.hooks
        hooks.can_access = hooks.is_operator = hooks.verify_key = None

    def close(self) -> None:
        self.state.stop(5)


MakeHost = Callable[..., Host]


def frames(text: str | bytes) -> list[dict[str, Any]]:
    """The frames of an event stream; `data` is read as JSON."""
    found: list[dict[str, Any]] = []
    frame: dict[str, Any] = {}
    for line in (text.decode() if isinstance(text, bytes) else text).split("\n"):
        if not line:
            if frame:
                found.append(frame)
            frame = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            if name != "retry":
                frame[name] = value if name != "data" or value == "[DONE]" else json.loads(value)
    return found


def events(text: str | bytes) -> list[dict[str, Any]]:
    """The frames without those of status."""
    return [frame for frame in frames(text) if frame.get("event") != "status"]


def url(text: str) -> str:
    return quote(text, safe="")
