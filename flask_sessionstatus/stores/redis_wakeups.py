"""Wake-ups over Redis: one pub/sub connection a process, read by one thread."""

from __future__ import annotations

import logging
import random
import threading

import redis

from .base import OnWakeup, Wakeups

log = logging.getLogger("flask_sessionstatus")

POLL = 1.0
MAX_BACKOFF = 1.0


class RedisWakeups(Wakeups):
    """Subscribes to what is watched; after every break it subscribes again and says that hints may have been lost."""

    def __init__(self, client: redis.Redis, own_channel: str, on_wakeup: OnWakeup) -> None:
        # Kept: a collected client would make its PubSub reconnect in silence.
        self._client = client
        self._own_channel = own_channel
        self._on_wakeup = on_wakeup
        self._channels: set[str] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._healthy = False
        self._pubsub: redis.client.PubSub | None = None
        self._thread = threading.Thread(target=self._run, name="sessionstatus-wakeups", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        return self._healthy

    def watch(self, channel: str) -> None:
        self._change(channel, add=True)

    def forget(self, channel: str) -> None:
        self._change(channel, add=False)

    def _change(self, channel: str, add: bool) -> None:
        with self._lock:
            (self._channels.add if add else self._channels.discard)(channel)
            if self._pubsub is None or not self._healthy:
                return
            try:
                (self._pubsub.subscribe if add else self._pubsub.unsubscribe)(channel)
            except (redis.RedisError, OSError):
                self._healthy = False

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            try:
                self._listen()
                failures = 0
            except (redis.RedisError, OSError, ValueError, TypeError, AttributeError) as error:
                # Closing the connection under a read shows as one of the last three.
                if self._closed.is_set():
                    return
                if not failures:
                    log.warning("Wake-ups are broken, the log is read at each tick: %s", type(error).__name__)
                failures += 1
            with self._lock:
                self._healthy = False
            self._closed.wait(random.uniform(0.05, min(MAX_BACKOFF, 0.1 * 2 ** min(failures, 8))))

    def _listen(self) -> None:
        pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            with self._lock:
                pubsub.subscribe(self._own_channel, *self._channels)
                self._pubsub, self._healthy = pubsub, True
            self._on_wakeup("", None)
            while self._healthy and not self._closed.is_set():
                message = pubsub.get_message(timeout=POLL)
                if message is not None and message["type"] == "message":
                    self._on_wakeup(message["channel"].decode(), message["data"])
        finally:
            with self._lock:
                self._pubsub, self._healthy = None, False
            pubsub.close()
