"""A host application in this process, under a real server, whose generations a test paces, holds and lets go."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Flask, Response, request
from werkzeug.serving import WSGIRequestHandler, make_server

from flask_sessionstatus import Run, SessionStatus

PREFIX = "/api/v1"
WAIT = 30.0


class Handler(WSGIRequestHandler):
    """HTTP/1.1: connections are kept, and a stream that breaks off differs from one that ends."""

    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None:
        pass

    def run_wsgi(self) -> None:
        with contextlib.suppress(OSError):
            super().run_wsgi()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    cursor: str | None
    status: int


class Generation:
    """One generation of `count` tokens; it pauses `pause` s after each, and waits at `hold` until it is let go."""

    def __init__(self, conversation_id: str, session_id: str, count: int, pause: float, hold: int | None, wire: str):
        self.conversation_id, self.session_id, self.wire = conversation_id, session_id, wire
        self.tokens = [f"{number} ü→\n" for number in range(count)]
        self.fails = False
        self.held = threading.Event()
        self.go = threading.Event()
        self.begun = threading.Event()
        self.run: Run | None = None
        self._pause, self._hold = pause, hold

    def write(self, run: Run) -> None:
        self.run = run
        self.begun.set()
        sdk = self.wire == "ai-sdk"
        if sdk:
            run.emit("part", {"type": "start", "messageId": "answer"})
            run.emit("part", {"type": "text-start", "id": "text"})
        for number, token in enumerate(self.tokens):
            if number == self._hold:
                run.flush(WAIT)
                self.held.set()
                while not self.go.wait(0.01):
                    run.check_cancelled()
            if self._pause:
                run.wait_cancelled(self._pause)
            run.check_cancelled()
            run.emit("token", {"type": "text-delta", "id": "text", "delta": token} if sdk else {"text": token})
        if self.fails:
            raise RuntimeError("The model is gone.")
        if sdk:
            run.emit("part", {"type": "text-end", "id": "text"})
            run.emit("part", {"type": "finish"})

    @property
    def text(self) -> str:
        return "".join(self.tokens)


class Host:
    """The application with its server; `user` None is nobody (401), `allowed` False is refused (403)."""

    def __init__(self, bundle: Callable[[], Path] | None = None, **config: Any) -> None:
        self.user: str | None = "u1"
        self.allowed = True
        self.requests: list[Request] = []
        self._threads: list[threading.Thread] = []
        self.app = Flask(__name__)
        settings = {"STORAGE_URI": "memory://", "MAX_FOLLOWERS": 200, "HEARTBEAT": 1, **config}
        self.app.config.update({f"SESSIONSTATUS_{name}": value for name, value in settings.items()})
        self.extension = SessionStatus(
            self.app, identify=lambda: self.user, can_access=lambda namespace, conversation_id: self.allowed
        )
        self.app.register_blueprint(self.extension.create_blueprint(), url_prefix=PREFIX)
        self.app.add_url_rule(
            "/page", "page", view_func=lambda: "<!doctype html><title>page</title><div id=root></div>"
        )
        if bundle is not None:
            self.app.add_url_rule(
                "/bundle.js", "bundle", lambda: Response(bundle().read_bytes(), mimetype="text/javascript")
            )
        self.app.after_request(self._note)
        self.server = make_server("127.0.0.1", 0, self.app, threaded=True, request_handler=Handler)
        self.server.daemon_threads = True  # type: ignore[attr-defined]
        self.port: int = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._serving = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self._serving.start()

    def _note(self, response: Response) -> Response:
        cursor = request.headers.get("Last-Event-ID") or request.args.get("cursor")
        self.requests.append(Request(request.method, request.path, cursor, response.status_code))
        return response

    def streams(self) -> list[Request]:
        """The requests for streams so far."""
        return [each for each in list(self.requests) if "/resume/" in each.path or each.path.endswith("/stream")]

    def generate(
        self,
        conversation_id: str = "c1",
        count: int = 10,
        pause: float = 0.0,
        *,
        session_id: str = "s1",
        hold: int | None = None,
        wire: str = "sse",
        fails: bool = False,
    ) -> Generation:
        """Start a generation in a thread of its own, and wait until it has begun, or come to where it is held."""
        generation = Generation(conversation_id, session_id, count, pause, hold, wire)
        generation.fails = fails
        thread = threading.Thread(target=self._work, args=(generation,), daemon=True)
        self._threads.append(thread)
        thread.start()
        assert (generation.held if hold is not None else generation.begun).wait(WAIT)
        return generation

    def _work(self, generation: Generation) -> None:
        owner = {"namespace_id": "u1", "wire": generation.wire}
        with (
            contextlib.suppress(RuntimeError),
            self.app.app_context(),
            self.extension.run(generation.conversation_id, generation.session_id, **owner) as run,
        ):
            generation.write(run)

    def join(self) -> None:
        """Wait for the generations."""
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()

    def stop_serving(self) -> None:
        """End streams cleanly and answer nobody any more, as a server that is restarted."""
        self.app.extensions["sessionstatus"].shutdown(5)
        self.server.shutdown()
        self.server.server_close()
        self._serving.join()

    def close(self) -> None:
        if self._serving.is_alive():
            self.stop_serving()

    @staticmethod
    def stream_path(generation: Generation) -> str:
        conversation, session = quote(generation.conversation_id, safe=""), quote(generation.session_id, safe="")
        return f"{PREFIX}/conversations/{conversation}/resume/{session}"


@contextlib.contextmanager
def serving(**config: Any) -> Iterator[Host]:
    host = Host(**config)
    try:
        yield host
    finally:
        host.close()
