"""Wake-ups over Redis: one connection a process in subscriber mode, read by one thread.

A connection of redis-py is used as it is, not its `PubSub`: that looks twice before each read, which takes longer than
the message was under way.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import Any

import redis

from ..base import STANDS, OnWakeup, Wakeups
from ..bounds import STEP
from .servers import Servers

log = logging.getLogger("flask_sessionstatus")

SILENCE = 1.0
MAX_BACKOFF = 1.0


class RedisWakeups(Wakeups):
    """Subscribes to what is watched; after every break it subscribes again and says that hints may have been lost.

    A subscription that stands is a wake-up as well: what was announced while it was under way was not heard.
    """

    def __init__(self, servers: Servers, own_channel: str, on_wakeup: OnWakeup) -> None:
        self._servers = servers
        self._own_channel = own_channel
        self._on_wakeup = on_wakeup
        self._channels: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._connection: Any = None
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="sessionstatus-wakeups", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        return self._connection is not None

    def watch(self, channel: str) -> None:
        with self._lock:
            self._channels.add(channel)
            self._send("SUBSCRIBE", channel)

    def forget(self, channel: str) -> None:
        with self._lock:
            self._channels.discard(channel)
            self._send("UNSUBSCRIBE", channel)

    def _send(self, *command: str) -> None:
        """Send to a connection that stands; a broken one is noticed by the thread that reads it."""
        if self._connection is None:
            return
        try:
            self._connection.send_command(*command)
        except (redis.RedisError, OSError):
            self._connection = None

    def close(self) -> None:
        """End the thread; it is waited for (a moment), so that nobody closes the connection under its read."""
        self._closed.set()
        with self._lock:
            self._send("UNSUBSCRIBE", self._own_channel)
        if self._thread is not threading.current_thread():
            self._thread.join(SILENCE)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError) as error:
                if self._closed.is_set():
                    return
                if not self._failures:
                    log.warning("Wake-ups are broken, the log is read at each tick: %s", type(error).__name__)
                self._failures += 1
            except Exception:  # whatever goes wrong once, hints must come again
                log.exception("Wake-ups failed.")
                self._failures += 1
            self._closed.wait(random.uniform(0.05, min(MAX_BACKOFF, 0.1 * 2 ** min(self._failures, 8))))

    def _listen(self) -> None:
        """Read until the connection breaks; in silence it is asked whether it is still there."""
        version, connection = self._servers.version, self._servers.subscriber(SILENCE)
        try:
            with self._lock:
                # Our own comes last: once it stands, all do.
                channels = [*self._channels, self._own_channel]
                for start in range(0, len(channels), STEP):
                    connection.send_command("SUBSCRIBE", *channels[start : start + STEP])
                self._connection = connection
            own, all_stand = self._own_channel.encode(), False
            asked = False
            while self._connection is connection and not self._closed.is_set() and version == self._servers.version:
                try:
                    reply = connection.read_response(disconnect_on_error=False, push_request=True)
                except redis.TimeoutError:
                    if asked:
                        raise
                    asked = True
                    self._servers.confirm()
                    with self._lock:
                        self._send("PING")
                    continue
                asked, self._failures = False, 0
                if not isinstance(reply, list):
                    continue
                if reply[0] == b"message":
                    self._on_wakeup(reply[1].decode(), reply[2])
                elif reply[0] == b"subscribe" and reply[1] == own:
                    all_stand = True
                    self._on_wakeup("", None)
                elif reply[0] == b"subscribe" and all_stand:
                    self._on_wakeup(reply[1].decode(), STANDS)
        finally:
            with self._lock:
                self._connection = None
            connection.disconnect()
