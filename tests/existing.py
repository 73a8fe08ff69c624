"""What the tests of other programs' sessions share: that program in a process of its own, and a host that shows
them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask
from hosts import frames, url
from werkzeug.test import TestResponse

from flask_sessionstatus import SessionStatus

KEYS = {
    "stream": "chat:stream:{conversation_id}:{session_id}",
    "status": "task:status:{conversation_id}:{session_id}",
    "cancel": "cancel:{conversation_id}:{session_id}",
}


class Program:
    """The chat back end in a process of its own; each of its methods can be called."""

    def __init__(self, uri: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("chat_backend.py")), uri]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self.send(name, *arguments, **options)
                return self.reply()

        return call

    def send(self, name: str, *arguments: Any, **options: Any) -> None:
        """Let it do something without waiting for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments, options]) + "\n")
        self._process.stdin.flush()

    def reply(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the chat back end has died"
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class Viewer:
    """A host that shows other programs' sessions, to everybody or by a rule."""

    def __init__(self, uri: str, keys: object = KEYS, can_access: Any = None, **config: Any) -> None:
        self.app = Flask("host")
        self.app.config.update(SESSIONSTATUS_STORAGE_URI=uri, SESSIONSTATUS_EXISTING_KEYS=keys)
        self.app.config.update({f"SESSIONSTATUS_{name.upper()}": value for name, value in config.items()})
        if can_access is None:
            self.app.config["SESSIONSTATUS_ALLOW_ANONYMOUS"] = True
            self.extension = SessionStatus(self.app)
        else:
            self.extension = SessionStatus(self.app, identify=lambda: "u1", can_access=can_access)
        self.app.register_blueprint(self.extension.create_blueprint(), url_prefix="")

    @property
    def state(self) -> Any:
        return self.app.extensions["sessionstatus"]

    @property
    def store(self) -> Any:
        return self.state.store

    @property
    def index(self) -> Any:
        return self.store._index

    @property
    def inner(self) -> Any:
        """The index behind a fallback into memory."""
        return self.store._store._index

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.app.test_client().get(path, **options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self.app.test_client().post(path, **options)

    def conversation(self, conversation_id: str, route: str, method: str = "GET", **options: Any) -> TestResponse:
        path = f"/conversations/{url(conversation_id)}/{route}"
        return self.app.test_client().open(path, method=method, **options)

    def active(self, conversation_id: str) -> dict[str, Any]:
        """What is shown, once it is known what there is."""
        until = time.monotonic() + 10
        while (response := self.conversation(conversation_id, "active-session")).status_code == 503:
            assert time.monotonic() < until, response.data
        assert response.status_code == 200, response.data
        body: dict[str, Any] = response.json
        return body

    def resume(self, conversation_id: str, session_id: str, cursor: str | None = None) -> Any:
        query = f"?cursor={cursor}" if cursor is not None else ""
        return self.conversation(conversation_id, f"resume/{url(session_id)}{query}", buffered=False)

    def begin(self, conversation_id: str = "nobody") -> None:
        """Wait until it knows what there is; the conversation has nothing yet."""
        self.until(lambda: self.conversation(conversation_id, "active-session").status_code == 404, 10)

    def until(self, condition: Callable[[], Any], wait: float = 5.0) -> float:
        """Wait until something holds; how long that took (s)."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < wait, f"not within {wait:g} s"
            time.sleep(0.001)
        return time.monotonic() - began

    def close(self) -> None:
        self.state.stop(5)


class Following:
    """A client that reads a stream, in a thread, and notes when each frame came (Unix s)."""

    def __init__(self, response: TestResponse) -> None:
        assert response.status_code == 200, response.status
        self.response = response
        self.text = b""
        self.times: list[tuple[float, bytes]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for part in self.response.response:
            assert isinstance(part, bytes)
            self.times.append((time.time(), part))
            self.text += part

    @property
    def frames(self) -> list[dict[str, Any]]:
        return [frame for frame in frames(self.text) if frame.get("event") != "status"]

    def wait_for(self, text: str, wait: float = 5.0) -> None:
        until = time.monotonic() + wait
        while text.encode() not in self.text:
            assert time.monotonic() < until, self.text
            time.sleep(0.001)

    def finish(self, wait: float = 10.0) -> list[dict[str, Any]]:
        self._thread.join(wait)
        assert not self._thread.is_alive(), self.text
        return self.frames
