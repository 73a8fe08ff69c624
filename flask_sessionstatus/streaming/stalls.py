"""Clients that take nothing: their connections are shut down, so that whoever sends to them is free again.

So are those of clients that have closed, or vanished without a word. No timeout of a socket tells these from slow
ones. TCP_USER_TIMEOUT (tcp(7)) goes on counting while a small window lets a few bytes through; SO_SNDTIMEO (socket(7))
counts until a third of the send buffer is free, and `settimeout` until all of it was sent. So what the client
acknowledged is looked at, a few times a heartbeat.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Protocol
from weakref import WeakSet

log = logging.getLogger("flask_sessionstatus")

PIECE = 65_536
LOOKS_A_HEARTBEAT = 4
# A pause may pass before the first of them, and one is to spare: all within two heartbeats.
LOOKS = 2 * LOOKS_A_HEARTBEAT - 2
# Of Linux's `struct tcp_info` (linux/tcp.h): state, segments in flight, bytes acknowledged, bytes not sent yet.
TCP_INFO = struct.Struct("=B23xI92xQ16xI")
# Its states (net/tcp_states.h) once the other side has closed: TCP_CLOSE after a reset, TCP_CLOSE_WAIT.
CLOSED = (7, 8)


class Stream(Protocol):
    """What is delivered; `stop` ends it from another thread."""

    def __iter__(self) -> Iterator[bytes]: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


class Delivery:
    """A stream on its way to one client: the iterator that a WSGI server sends over `connection`, piece by piece."""

    def __init__(self, stream: Stream, connection: socket.socket, stalls: Stalls) -> None:
        self._stream = stream
        self._connection = connection
        self._stalls = stalls
        self._pieces = _pieces(stream)
        self._handed_over = 0
        self._sending = False
        self._taken: tuple[int, int] | None = None
        self._looks = 0
        stalls.watch(self)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._sending = False
        try:
            return next(self._pieces)
        finally:  # a server sends something after the last piece, too
            self._handed_over += 1
            self._sending = True

    def close(self) -> None:
        """End the stream; the server may close its connection, or use it for other requests."""
        self._stalls.forget(self)
        self._stream.close()

    def look(self) -> bool:
        """Look once more; True when in LOOKS looks the client has taken nothing of what waits for it, or has gone."""
        there, waiting, acknowledged = _progress(self._connection) or (True, self._sending, 0)
        if not there:
            return True
        taken = (self._handed_over, acknowledged)
        self._looks = self._looks + 1 if waiting and taken == self._taken else 0
        self._taken = taken
        return self._looks >= LOOKS

    def cut(self) -> None:
        """Shut the connection down: a send that waits fails. What was sent before still reaches the client."""
        # By a socket of its own: under gevent a shutdown raises in whoever waits for the same one.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
        self._stream.stop()


class Stalls:
    """Looks after the deliveries of a process, in a thread that lives while there are any."""

    def __init__(self, heartbeat: float) -> None:
        self._pause = heartbeat / LOOKS_A_HEARTBEAT
        self._lock = threading.Lock()
        self._deliveries: WeakSet[Delivery] = WeakSet()
        self._thread: threading.Thread | None = None

    def watch(self, delivery: Delivery) -> None:
        """Look after a delivery, until it is forgotten or nobody holds it any more."""
        with self._lock:
            self._deliveries.add(delivery)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="sessionstatus-stalls", daemon=True)
                self._thread.start()

    def forget(self, delivery: Delivery) -> None:
        """End a watch: from here on the delivery's connection is left alone."""
        with self._lock:
            self._deliveries.discard(delivery)

    def look(self) -> None:
        """Look at each delivery once, and cut those that have stalled."""
        with self._lock:
            deliveries = list(self._deliveries)
        for each in deliveries:
            if each.look():
                self._cut(each)

    def _cut(self, delivery: Delivery) -> None:
        # Under the lock: until it is forgotten, the server has not closed its connection.
        with self._lock:
            if delivery in self._deliveries:
                self._deliveries.discard(delivery)
                delivery.cut()
                log.info("A client that has gone, or took nothing of its stream for two heartbeats, was cut.")

    def _run(self) -> None:
        while True:
            time.sleep(self._pause)
            with self._lock:
                if not self._deliveries:
                    self._thread = None
                    return
            try:
                self.look()
            except Exception:  # whatever goes wrong in one look, the next must come
                log.exception("A look for stalled clients failed.")


def _pieces(stream: Stream) -> Iterator[bytes]:
    """The stream in pieces of at most PIECE bytes: they show progress where the connection tells nothing of it."""
    for frames in stream:
        for start in range(0, len(frames), PIECE):
            yield frames[start : start + PIECE]


def _progress(connection: socket.socket) -> tuple[bool, bool, int] | None:
    """Whether the client is there, whether bytes wait for it, and how many it acknowledged so far; None where the
    system does not tell."""
    if sys.platform != "linux":
        return None
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
        state, in_flight, acknowledged, not_sent = TCP_INFO.unpack(info)
    except (OSError, struct.error):  # a Unix socket, or a system that tells less
        return None
    return state not in CLOSED, in_flight > 0 or not_sent > 0, acknowledged
