"""A client of a session's socket, and the servers that it connects to."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processes.gunicorns import FlaskRun, Gunicorn, Server
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

FOLDER = Path(__file__).parent
WAIT = 10.0

SERVERS = ("werkzeug", "gthread", "gevent")
OPTIONS = {"gthread": ("--worker-class", "gthread", "--threads", "30"), "gevent": ("--worker-class", "gevent")}

Frame = dict[str, Any]


def server(name: str, log: Path, settings: dict[str, object], *options: str) -> Server:
    """A server that is started; its host application is this folder's."""
    chosen = {"WEBSOCKET_PATH": "/ws", **settings}
    started: Server = (
        FlaskRun(log, chosen, folder=FOLDER)
        if name == "werkzeug"
        else Gunicorn(log, chosen, *OPTIONS[name], *options, folder=FOLDER)
    )
    started.wait_until_ready()
    return started


def make_session(server: Server, **body: Any) -> dict[str, Any]:
    """A new session, as `POST /sessions` answers."""
    made: dict[str, Any] = server.client.post("/api/v1/sessions").json
    return made


class Peer:
    """A connected client. `frames` are those that came so far, `cursor` is that of the last event."""

    def __init__(self, url: str, cursor: str | None = None, **options: Any) -> None:
        self.frames: list[Frame] = []
        self.cursor = cursor
        limits: Any = {"max_size": None, "max_queue": None, "ping_interval": None, "open_timeout": WAIT}
        self._open = contextlib.ExitStack()
        self.socket: ClientConnection = self._open.enter_context(
            connect(url if cursor is None else f"{url}&cursor={cursor}", compression=None, **limits, **options)
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def say(self, message: object) -> None:
        """Send a value as JSON, or bytes as they are."""
        self.socket.send(message if isinstance(message, bytes) else json.dumps(message))

    def receive(self, timeout: float = WAIT) -> Frame:
        """The next frame. Raises ConnectionClosed, and TimeoutError."""
        text = self.socket.recv(timeout=timeout)
        assert isinstance(text, str)
        frame: Frame = json.loads(text)
        assert set(frame) == {"cursor", "type", "data"}
        self.frames.append(frame)
        self.cursor = frame["cursor"] or self.cursor
        return frame

    def until(self, check: Callable[[Frame], Any]) -> Frame:
        """The first frame to come for which the check is true."""
        end = time.monotonic() + WAIT
        while not check(frame := self.receive()):
            assert time.monotonic() < end, self.frames
        return frame

    def until_type(self, type: str) -> Frame:
        return self.until(lambda frame: frame["type"] == type)

    def ask(self, message: object) -> Any:
        """Say something; the data of the reply, or of the error."""
        self.say(message)
        return self.until(lambda frame: frame["type"] in ("reply", "error"))["data"]

    def of(self, type: str) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == type]

    @property
    def events(self) -> list[tuple[str, str]]:
        """Cursor and type of what came of the log."""
        return [(frame["cursor"], frame["type"]) for frame in self.frames if frame["cursor"] is not None]

    def closed(self) -> tuple[int, str]:
        """Read on until the server closes; its code and reason."""
        try:
            while True:
                self.receive()
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1006, "")

    def cut(self) -> None:
        """Cut the connection, as a lost network does."""
        with contextlib.suppress(OSError):
            self.socket.socket.shutdown(socket.SHUT_RDWR)
        self._open.close()


def cursors_of(numbers: int, epoch: int) -> list[str]:
    return [f"{epoch}-{number}" for number in range(1, numbers + 1)]
