"""A WebSocket (RFC 6455) on the connection of a WSGI server: whole messages in, texts out, from any thread.

wsproto speaks the protocol, this reads and writes. `simple_websocket`, which others use for it, sends from two threads
at once, takes a part that went out for the whole, and closes a connection that is its server's to close.
"""

from __future__ import annotations

import base64
import binascii
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.utilities import LocalProtocolError

from ..errors import BadRequest, SessionStatusError
from .tls import TlsSocket

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

SILENCE = 15.0
CLOSE_WAIT = 2.0
RECEIVE = 65_536
SEND_BUFFER = 131_072
VERSION = "13"

NORMAL = 1000
GOING_AWAY = 1001
POLICY_VIOLATION = 1008
MESSAGE_TOO_BIG = 1009
INTERNAL_ERROR = 1011
TRY_AGAIN_LATER = 1013


class Connection:
    """One connection, from its handshake on.

    A peer that takes nothing for SILENCE s is given up, and one that says nothing for as long after a ping.
    `maximum` is the size of the largest message, in bytes. Raises BadRequest when the request is no proper handshake.
    """

    def __init__(self, environ: WSGIEnvironment, maximum: int) -> None:
        key = _key_of(environ)
        self._socket = _socket_of(environ)
        self._maximum = maximum
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._protocol.initiate_upgrade_connection(
            [
                (b"Host", b"here"),
                (b"Connection", b"Upgrade"),
                (b"Upgrade", b"websocket"),
                (b"Sec-WebSocket-Version", VERSION.encode()),
                (b"Sec-WebSocket-Key", key),
            ],
            "/",
        )
        # The state of the protocol is held for moments; who writes may have to wait for the peer.
        self._state = threading.Lock()
        self._writing = threading.Lock()
        self._messages: deque[str | bytes] = deque()
        self._part = bytearray()
        self._was_asked = False
        self._is_over = False
        self._closing = False
        self._done = threading.Event()

    def accept(self) -> None:
        """Answer the handshake. Raises OSError when the peer is gone."""
        self._socket.settimeout(SILENCE)
        # A large buffer takes nothing more until much of it has gone out: a slow peer would pass for a dead one.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._write(AcceptConnection())

    def send(self, texts: Iterable[str]) -> None:
        """Send each text as a message. Raises OSError when the connection is closed or the peer is gone."""
        self._write(*(TextMessage(text) for text in texts))

    def receive(self) -> str | bytes | None:
        """The next message; None when no more will come: the peer closed, is gone, or broke the rules."""
        while not self._messages and not self._is_over:
            self._is_over = not self._read()
        return self._messages.popleft() if self._messages else None

    def say_close(self, code: int, reason: str) -> None:
        """Say that nothing follows."""
        self._closing = True
        try:
            self._write(CloseConnection(code, reason))
        except OSError:
            pass

    def close(self, code: int, reason: str = "") -> None:
        """Say that nothing follows, from a thread that does not receive, and let the peer answer for a moment."""
        self.say_close(code, reason)
        if not self._done.wait(CLOSE_WAIT):
            self.abort()

    def finish(self) -> None:
        """End it, from the thread that receives: what was sent last must reach the peer, so what it still sends is
        read and forgotten."""
        until = time.monotonic() + CLOSE_WAIT
        try:
            while self._closing and not self._peer_has_closed() and (left := until - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._read():
                    break
        except OSError:
            pass
        self._done.set()
        self.abort()

    def abort(self) -> None:
        """Cut the connection; whoever reads or writes is woken. The server closes it."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _write(self, *events: Event) -> None:
        with self._writing:
            with self._state:
                try:
                    data = b"".join(self._protocol.send(event) for event in events)
                except LocalProtocolError:
                    raise ConnectionAbortedError("The WebSocket is closed.") from None
            left = memoryview(data)
            try:
                while left:
                    left = left[self._socket.send(left) :]
            except OSError:
                # A part may have gone out: nothing can follow.
                self.abort()
                raise

    def _read(self) -> bool:
        """Take in what the peer sent; False when nothing more will come."""
        try:
            data = self._socket.recv(RECEIVE)
        except TimeoutError:
            return self._ask()
        except OSError:
            return False
        if not data:
            return False
        self._was_asked = False
        with self._state:
            self._protocol.receive_data(data)
            events = list(self._protocol.events())
        return all(self._take(event) for event in events)

    def _peer_has_closed(self) -> bool:
        return self._protocol.state in (ConnectionState.REMOTE_CLOSING, ConnectionState.CLOSED)

    def _ask(self) -> bool:
        """The peer was silent: ask whether it is there, once; the next time it is given up."""
        if self._was_asked or self._closing:
            self.abort()
            return False
        self._was_asked = True
        try:
            self._write(Ping())
        except OSError:
            return False
        return True

    def _take(self, event: Event) -> bool:
        if isinstance(event, (TextMessage, BytesMessage)):
            return self._closing or self._add(event)
        try:
            if isinstance(event, Ping):
                self._write(event.response())
            elif isinstance(event, CloseConnection) and self._peer_has_closed():
                self._write(event.response())
                return False
            elif isinstance(event, CloseConnection):
                # wsproto's word for a peer that broke the rules.
                self.say_close(event.code, event.reason or "")
                return False
        except OSError:
            return False
        return True

    def _add(self, part: TextMessage | BytesMessage) -> bool:
        """Take a part of a message; False when that has become too big."""
        self._part += part.data.encode() if isinstance(part, TextMessage) else part.data
        if len(self._part) > self._maximum:
            self.say_close(MESSAGE_TOO_BIG, f"A message has at most {self._maximum} bytes.")
            return False
        if part.message_finished:
            self._messages.append(self._part.decode() if isinstance(part, TextMessage) else bytes(self._part))
            self._part.clear()
        return True


def _key_of(environ: WSGIEnvironment) -> bytes:
    """The client's key, 16 bytes in base64. Raises BadRequest where it or the version is another."""
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION") != VERSION:
        raise BadRequest(f"The WebSocket's version must be {VERSION}.")
    key: bytes = environ.get("HTTP_SEC_WEBSOCKET_KEY", "").encode("latin-1")
    try:
        is_proper = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        is_proper = False
    if not is_proper:
        raise BadRequest("The handshake has no proper Sec-WebSocket-Key.")
    return key


def _socket_of(environ: WSGIEnvironment) -> socket.socket | TlsSocket:
    """The connection itself, which WSGI knows nothing of: each server gives it under a name of its own."""
    found: socket.socket | None = environ.get("werkzeug.socket") or environ.get("gunicorn.socket")
    if found is None:
        raise SessionStatusError(
            "This server has no WebSockets: use gunicorn with gthread or gevent, or werkzeug's own."
        )
    return TlsSocket(found) if isinstance(found, ssl.SSLSocket) else found
