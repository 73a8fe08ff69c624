"""How a process learns which keys of other programs there are: one scan, and from then on the server tells.

`CLIENT TRACKING … BCAST PREFIX` announces each change of a key that begins with a prefix, whoever makes it, without any
setting of the server: https://redis.io/docs/latest/develop/reference/client-side-caching/. In RESP2 a connection may
be its own target: what would come as a push then comes as a message of `__redis__:invalidate`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis
from redis.connection import AbstractConnection

from ..redis.node import Node
from .templates import Place

if TYPE_CHECKING:
    from .discovery import Discovery

log = logging.getLogger("flask_sessionstatus")

INVALIDATED = b"__redis__:invalidate"
BATCH = 256
"""Keys that one SCAN looks at, and keys that are asked for in one go."""

SILENCE = 1.0
"""Seconds of silence after which the server is asked whether it is there; three of them are a break."""

CHECK = 1.0
"""Seconds between two looks whether keys that changed are still there."""

TICK = 0.5
"""Seconds between two looks at what is followed, where nothing tells of changes."""

RESCAN, RESCAN_SHARE = 5.0, 20
"""Where nothing tells of new keys: seconds between two scans, and at least so many times what the last one took."""

PATIENCE = 30.0
"""Seconds for which a scan that does not come to its end makes what is unknown unavailable."""

PAUSE = 0.001
"""Seconds between two looks at what has come: of busy programs much comes, and is cheaper together."""

MAX_BACKOFF = 1.0
DRAINED = 64
"""Messages that are taken up together, if so many have come."""


class Listener:
    """Hears, in a thread, what happens to other programs' keys on one server, and goes once through all that are there.

    After a break it does so again: what happened meanwhile was not heard.
    """

    def __init__(self, discovery: Discovery, node: Node) -> None:
        self.node = node
        self.has_scanned = False
        self.incomplete_since = time.monotonic()
        self.thread = threading.Thread(target=self._run, name="sessionstatus-existing", daemon=True)
        self._discovery = discovery
        self._closed = False
        self._lock = threading.Lock()
        self._connection: AbstractConnection | None = None
        self._failures = 0
        self._is_told = False
        self._scan_took = 0.0
        self._said: set[str] = set()

    @staticmethod
    def is_given_up(since: float) -> bool:
        """Whether a scan has not come to its end for too long."""
        return time.monotonic() - since > PATIENCE

    def close(self) -> None:
        """End; nobody waits for that."""
        self._closed = True
        with self._lock, suppress(redis.RedisError, OSError):
            if self._connection is not None:
                self._connection.send_command("PING")  # its answer wakes the thread

    @property
    def _is_over(self) -> bool:
        return self._closed or self._discovery.closed.is_set()

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                if not self._failures:
                    log.info("Changes of other programs' keys are not heard: %s", type(error).__name__)
            except Exception:  # whatever goes wrong once, it must go on
                if not self._failures:
                    log.exception("Changes of other programs' keys are not heard.")
            if self.has_scanned:
                self.has_scanned, self.incomplete_since = False, time.monotonic()
            self._failures += 1
            self._discovery.closed.wait(random.uniform(0.02, min(MAX_BACKOFF, 0.1 * 2 ** min(self._failures, 8))))

    def _listen(self) -> None:
        """Subscribe and scan, in this order, then hear of changes until the connection breaks, or leads elsewhere.

        Where the server tells nothing, scan again and again.
        """
        servers = self._discovery.calls.servers
        version = servers.version
        connection = self.node.connection(socket_timeout=SILENCE, protocol=2)
        try:
            self._subscribe(connection)
            self._connection = connection
            scan: Iterator[None] | None = self._scan()
            heard_at = asked_at = checked_at = ticked_at = scanned_at = time.monotonic()
            while not self._is_over and version == servers.version:
                if scan is not None and next(scan, "over") == "over":
                    scan, scanned_at = None, time.monotonic()
                    self._has_scanned()
                heard = self._hear(connection, 0.0 if scan is not None else SILENCE if self._is_told else TICK)
                now = time.monotonic()
                if heard:
                    heard_at = now
                elif now - max(heard_at, asked_at) > SILENCE:
                    asked_at = self._ask(connection, now - heard_at)
                if now - checked_at >= CHECK:
                    checked_at = now
                    self._discovery.check()
                if not self._is_told and now - ticked_at >= TICK:
                    ticked_at = now
                    self._discovery.rouse()
                    if scan is None and now - scanned_at >= max(RESCAN, RESCAN_SHARE * self._scan_took):
                        scan = self._scan()
        finally:
            with self._lock:
                self._connection = None
            connection.disconnect()

    def _ask(self, connection: AbstractConnection, silent: float) -> float:
        """Ask whether the server is there; returns when."""
        if silent > 3 * SILENCE:
            raise redis.TimeoutError("The server is silent.")
        self._discovery.calls.servers.confirm()
        with self._lock:
            connection.send_command("PING")
        return time.monotonic()

    def _subscribe(self, connection: AbstractConnection) -> None:
        """Have the server tell of changes; where it refuses, there are only scans and announcements."""
        prefixes = [part for prefix in self._discovery.keys.watched for part in ("PREFIX", prefix)]
        try:
            itself = _reply(connection, "CLIENT", "ID")
            _reply(connection, "CLIENT", "TRACKING", "ON", "REDIRECT", itself, "BCAST", *prefixes)
            _reply(connection, "SUBSCRIBE", INVALIDATED)
            self._is_told = True
        except redis.ResponseError as error:
            self._is_told = False
            self._say(f"The server does not tell of other programs' keys; they are looked for now and then: {error}")
        try:
            _reply(connection, "SUBSCRIBE", self._discovery.announced)
        except redis.ResponseError as error:
            self._say(f"Announcements of other programs' keys are not heard: {error}")

    def _say(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            log.warning("%s", sentence)

    def _hear(self, connection: AbstractConnection, wait: float) -> bool:
        """Take up what has come, together, waiting for it up to `wait` s; whether there was something."""
        keys: dict[bytes, None] = {}
        heard = 0
        while heard < DRAINED and connection.can_read(wait if not heard else 0):
            heard += 1
            message: Any = connection.read_response(push_request=True)
            if not isinstance(message, list) or message[0] != b"message":
                continue
            if message[1] != INVALIDATED:
                keys[message[2]] = None
            elif message[2] is not None:
                keys.update(dict.fromkeys(message[2]))
            else:  # all keys were removed at once
                self._discovery.doubt_all(set())
                self._discovery.rouse()
        if keys:
            self._discovery.changed(keys)
            time.sleep(PAUSE)
        return heard > 0

    def _scan(self) -> Iterator[None]:
        """Go through the server's keys once, one step at a time."""
        began, cursor = time.monotonic(), b"0"
        seen: set[Place | None] = set()
        # Not one of the store's own connections: that it may not be scanned says nothing of the store.
        connection = self.node.connection(protocol=2)
        try:
            while True:
                glob = self._discovery.keys.stream.glob
                cursor, found = _reply(connection, "SCAN", cursor, "MATCH", glob, "COUNT", BATCH)
                seen.update(self._discovery.learn(found).values())
                if cursor == b"0":
                    break
                yield
            self._discovery.doubt_all(seen)
        except redis.ResponseError as error:
            self._say(f"The keys cannot be scanned; sessions that nobody writes to are not seen: {error}")
        finally:
            connection.disconnect()
        self._scan_took = time.monotonic() - began

    def _has_scanned(self) -> None:
        self._failures = 0
        self.has_scanned = True
        self._discovery.scanned()
        self._discovery.rouse()


def _reply(connection: AbstractConnection, *command: Any) -> Any:
    """The reply to a command; what is announced before it is passed over: the scan that follows finds it."""
    connection.send_command(*command)
    while True:
        reply: Any = connection.read_response(push_request=True)
        if not isinstance(reply, list) or reply[:1] != [b"message"]:
            return reply
