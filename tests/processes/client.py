"""A small HTTP client for servers that run in other processes: JSON requests, and streams read frame by frame."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

POLL = 0.02


@dataclass(frozen=True)
class Frame:
    """One server-sent event; `data` is what its JSON holds, `at` when it arrived (monotonic, s)."""

    type: str
    data: Any
    id: str | None = None
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Stream:
    """An open event stream; iterating gives its frames until the server closes it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._socket = connection.sock
        self._response = connection.getresponse()
        self.status = self._response.status
        self.headers = self._response.headers

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def read(self) -> bytes:
        """All that is left, up to the close."""
        return self._response.read()

    def cut(self) -> None:
        """Cut the connection, as a lost network does; whoever iterates comes to the end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[Frame]:
        fields: dict[str, str] = {}
        for line in self._response:
            name, separator, value = line.decode().rstrip("\n").partition(":")
            if name and separator:
                fields[name] = value.removeprefix(" ")
            elif not name and "data" in fields:
                yield Frame(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))
                fields = {}


class Client:
    """Requests to one server, each on a connection of its own; `context` is for one that speaks TLS."""

    def __init__(self, url: str, timeout: float = 20.0, context: ssl.SSLContext | None = None) -> None:
        self.url = url
        self._timeout = timeout
        self.context = context

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, form: Mapping[str, object] | None = None
    ) -> Answer:
        """One request and its whole answer. Raises OSError while nobody answers."""
        with self.stream(path, headers, method, form) as stream:
            return Answer(stream.status, stream.headers, stream.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers)

    def post(self, path: str, **form: object) -> Answer:
        return self.request("POST", path, form=form)

    def stream(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        form: Mapping[str, object] | None = None,
    ) -> Stream:
        """One request whose answer is read as it comes."""
        return self._stream(self._connect(), path, headers, method, form)

    def stream_elsewhere(self, path: str, process: int) -> Stream:
        """As `stream`, from a process other than this one of the server's: it is held while the other accepts."""
        os.kill(process, signal.SIGSTOP)
        try:
            stream = self.stream(path)
        finally:
            os.kill(process, signal.SIGCONT)
        assert stream.headers["X-Process"] != str(process)
        return stream

    def _connect(self) -> http.client.HTTPConnection:
        address = urlsplit(self.url)
        assert address.hostname is not None
        if address.scheme == "https":
            return http.client.HTTPSConnection(
                address.hostname, address.port, timeout=self._timeout, context=self.context
            )
        return http.client.HTTPConnection(address.hostname, address.port, timeout=self._timeout)

    def _stream(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        form: Mapping[str, object] | None = None,
    ) -> Stream:
        try:
            body = urlencode(form) if form is not None else None
            kind = {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
            connection.request(method, path, body, {**kind, **(headers or {})})
            return Stream(connection)
        except BaseException:
            connection.close()
            raise

    def conversation(self, conversation_id: str) -> str:
        """The path of a conversation's routes."""
        return f"/api/v1/conversations/{quote(conversation_id, safe='')}"


def wait_until(check: Callable[[], Any], timeout: float, what: str) -> Any:
    """Ask again and again until the answer is true, and return it. Fails, naming `what`, when the time (s) runs out."""
    until = time.monotonic() + timeout
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < until, f"{what}: not within {timeout:g} s"
        time.sleep(POLL)
