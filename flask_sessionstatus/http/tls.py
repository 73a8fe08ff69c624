"""A connection under TLS that one thread reads while another writes."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TlsSocket:
    """Reads and writes a socket of the ssl module, from two threads.

    OpenSSL allows one connection to one thread at a time (openssl-threads(7)), and a read that waits for the peer would
    keep the writer from its turn: so each call takes what is there, or what fits, under a lock, and waits without it.
    """

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._socket = connection
        self._lock = threading.Lock()
        self._timeout = 0.0

    def settimeout(self, timeout: float) -> None:
        """For how long (s) a call may wait."""
        self._timeout = timeout
        self._socket.settimeout(0.0)

    def setsockopt(self, level: int, name: int, value: int) -> None:
        self._socket.setsockopt(level, name, value)

    def recv(self, size: int) -> bytes:
        """Some bytes of the peer's, none once it has closed. Raises OSError, TimeoutError among them."""
        return self._when_ready(lambda: self._socket.recv(size))

    def send(self, data: memoryview) -> int:
        """Send some of the bytes; returns how many. Raises as recv does."""
        return self._when_ready(lambda: self._socket.send(data))

    def shutdown(self, how: int) -> None:
        """Cut the connection. What comes after it must not go out as it is, so TLS stays on top."""
        socket.socket.shutdown(self._socket, how)

    def _when_ready(self, call: Callable[[], T]) -> T:
        until = time.monotonic() + self._timeout
        while True:
            try:
                with self._lock:
                    return call()
            except ssl.SSLWantReadError:
                awaited = select.POLLIN
            except ssl.SSLWantWriteError:
                awaited = select.POLLOUT
            self._wait(awaited, until)

    def _wait(self, awaited: int, until: float) -> None:
        poll = select.poll()
        poll.register(self._socket, awaited)
        if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError("The peer is silent.")
