"""Talking to Redis: one bounded pool, one script a step, errors in this package's words, and the memory of an
outage."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..concurrency import is_cooperative
from ..errors import RecordUnreadable, StoreUnavailable
from .base import Counters, Limits

log = logging.getLogger("flask_sessionstatus")

Argument = str | int | bytes
Call = tuple[str, Sequence[Argument]]

CLIENT_DEFAULTS: Mapping[str, Any] = {"socket_connect_timeout": 0.8, "socket_timeout": 0.8}
POOL_WAIT = 1.0
CONNECTIONS = 16
COOPERATIVE_CONNECTIONS = 2
"""Thousands of greenlets share one interpreter: two connections keep it busy, more only wait for it."""
ALONE = "-- Alone:"
CLOCK = "redis.call('TIME')"
SCRIPTS = (
    *("status", "begin", "append", "beat", "cancel", "session", "update", "turns", "delete", "access"),
    *("events", "tasks", "result", "reserve"),
)

# What the pool says when all of its connections are in use: a crowd, not an outage.
NO_CONNECTION = "No connection available"
_UNREADABLE = ("UNREADABLE", "WRONGTYPE")
_AWAY = ("OOM", "MISCONF", "NOREPLICAS", "BUSY", "NOAUTH", "WRONGPASS", "NOPERM", "MASTERDOWN", "UNKILLABLE")


def connect(url: str, options: Mapping[str, Any]) -> redis.Redis:
    """A client with a bounded pool, short timeouts and no retries of its own; nothing is connected yet."""
    settings: dict[str, Any] = {**CLIENT_DEFAULTS, **options, "decode_responses": False, "retry": Retry(NoBackoff(), 0)}
    settings.setdefault("timeout", POOL_WAIT)
    settings.setdefault("max_connections", COOPERATIVE_CONNECTIONS if is_cooperative() else CONNECTIONS)
    pool = redis.BlockingConnectionPool.from_url(url, **settings)
    # Made and thrown away: an option that no connection knows shows here, not at the first request.
    pool.connection_class(**pool.connection_kwargs)
    return redis.Redis.from_pool(pool)


class Script:
    """A script's text and hash. `clock` is the Lua expression for the server's time as {seconds, microseconds}."""

    def __init__(self, name: str, clock: str) -> None:
        folder = files(__package__) / "lua"
        own = (folder / f"{name}.lua").read_text(encoding="utf-8")
        common = "" if own.startswith(ALONE) else (folder / "common.lua").read_text(encoding="utf-8")
        self.text = (common + own).replace(CLOCK, clock)
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class Calls:
    """Commands and scripts; every failure to reach the server comes out as StoreUnavailable."""

    def __init__(
        self, client: redis.Redis, limits: Limits, counters: Counters, clock: str, monotonic: Callable[[], float]
    ) -> None:
        self.client = client
        self._limits = limits
        self._counters = counters
        self._monotonic = monotonic
        self._scripts = {name: Script(name, clock) for name in SCRIPTS}
        self._failed_since: float | None = None
        self._recovered_at: float | None = None
        self._answered_at = monotonic()
        self._server: bytes | None = None
        client.connection_pool.connection_kwargs["redis_connect_func"] = self._connected

    def script(self, name: str, key: str, *args: Argument) -> Any:
        """The reply of one script. Raises StoreUnavailable and RecordUnreadable."""
        known = self._scripts[name]
        try:
            try:
                reply = self._execute("EVALSHA", known.sha, 1, key, *args)
            except redis.exceptions.NoScriptError:
                reply = self._execute("EVAL", known.text, 1, key, *args)
        except (redis.RedisError, OSError) as error:
            raise self._translated(error) from error
        self._answered_at = self._monotonic()
        if self._failed_since is not None:
            self._succeeded()
        return reply

    def _execute(self, *command: Argument) -> Any:
        """A command straight over a connection of the pool; one that breaks is closed by the connection itself.

        `execute_command` wraps each in retries (off here) and metrics, at a tenth of the cost of a status read.
        """
        pool = self.client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            pool.release(connection)

    def scripts(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """The replies of one script for several keys in one round trip; errors stand in their places."""
        if len(calls) == 1:
            try:
                return [self.script(name, calls[0][0], *calls[0][1])]
            except (RecordUnreadable, redis.RedisError) as error:
                return [error]
        known = self._scripts[name]
        replies = self._pipeline([("EVALSHA", known.sha, 1, key, *args) for key, args in calls])
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        if unknown:
            again = self._pipeline([("EVAL", known.text, 1, calls[i][0], *calls[i][1]) for i in unknown])
            for i, reply in zip(unknown, again):
                replies[i] = reply
        return [self._translated(reply) if isinstance(reply, Exception) else reply for reply in replies]

    def command(self, *command: Argument) -> Any:
        """The reply of one command. Raises as script does."""
        return self.commands(command)[0]

    def commands(self, *commands: Sequence[Argument]) -> list[Any]:
        """The replies of several commands in one round trip. Raises as script does, for the first that failed."""
        replies = self._pipeline(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._translated(reply) from reply
        return replies

    def _pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        if not commands:
            return []
        try:
            with self.client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                replies: list[Any] = pipeline.execute(raise_on_error=False)
        except (redis.RedisError, OSError) as error:
            raise self._translated(error) from error
        self._answered_at = self._monotonic()
        if self._failed_since is not None:
            self._succeeded()
        return replies

    def _translated(self, error: Exception) -> Exception:
        text = str(error)
        if isinstance(error, redis.ResponseError) and any(word in text for word in _UNREADABLE):
            self._counters.unreadable += 1
            log.error("A stored record cannot be read: %s", text)
            return RecordUnreadable("A stored record cannot be read.")
        answered = isinstance(error, redis.ResponseError) and not isinstance(error, redis.exceptions.ReadOnlyError)
        if answered and not any(word in text for word in _AWAY):
            log.error("The store refused: %s", text)
            return StoreUnavailable("The store refused. Try again in a moment.")
        if NO_CONNECTION in text:
            return StoreUnavailable("Too many wait for the store here. Try again in a moment.")
        if self._failed_since is None or self._recovered_at is not None:
            log.warning("The store is unavailable: %s: %s", type(error).__name__, text)
            self._failed_since, self._recovered_at = self._failed_since or self._monotonic(), None
        return StoreUnavailable("The store is unavailable. Try again in a moment.")

    # Recovering: the writers may not have renewed their leases, or healed the store, yet.

    def _connected(self, connection: Any) -> None:
        """Set a new connection up, and see whether the server is another one than before.

        The pool replaces idle connections that broke in silence: a process that asked nothing during an outage learns
        of it here.
        """
        connection.on_connect()
        connection.send_command("INFO", "server")
        try:
            found = re.search(rb"run_id:(\w+)", connection.read_response())
        except redis.ResponseError:  # not allowed here
            return
        known, self._server = self._server, found[1] if found else None
        if known not in (None, self._server) and (self._failed_since is None or self._recovered_at is not None):
            log.warning("The store is another server than before, or has started again.")
            self._failed_since = self._failed_since or self._answered_at
            self._recovered_at = self._monotonic()

    def _succeeded(self) -> None:
        now = self._monotonic()
        if self._recovered_at is None:
            self._recovered_at = now
            log.warning("The store is available again.")
        elif now - self._recovered_at > self._limits.lease / 1000:
            self._failed_since = self._recovered_at = None

    @property
    def recovering(self) -> bool:
        """True for two heartbeats after an outage."""
        recovered = self._recovered_at
        return recovered is not None and self._monotonic() - recovered < 2 * self._limits.heartbeat / 1000

    @property
    def grace(self) -> int:
        """For how long before now a lease may have run out only because nobody could renew it (ms)."""
        failed = self._failed_since
        return 0 if failed is None else round((self._monotonic() - failed) * 1000)
