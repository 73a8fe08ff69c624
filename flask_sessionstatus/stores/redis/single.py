"""One server, or the primary that the Sentinels name."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import redis
from redis.connection import AbstractConnection

from .address import TIMEOUT, Address, Host
from .node import Argument, Node
from .outages import Outages
from .servers import KeyedCommand, Servers

CONFIRM = 1.0
"""Seconds between two questions to the Sentinels whether the primary is still the same."""


class Single(Servers):
    """The server that an address names."""

    def __init__(self, address: Address, outages: Outages) -> None:
        self._address = address
        self._node = Node("", self._open, outages, size=address.size, wait=address.wait)

    def execute(self, key: str, *command: Argument) -> Any:
        return self._node.execute(*command)

    def pipeline(self, commands: Sequence[KeyedCommand]) -> list[Any]:
        try:
            return self._node.send([command for _, command in commands]).receive()
        except (redis.RedisError, OSError) as error:
            return [error] * len(commands)

    def subscriber(self, timeout: float) -> AbstractConnection:
        return self._node.connection(socket_timeout=timeout)

    def primaries(self) -> Sequence[Node]:
        return [self._node]

    def confirm(self) -> None:
        """Nothing to see: they lead where the address says."""

    def ping(self) -> None:
        self._node.renew()
        self._node.execute("PING")

    def close(self) -> None:
        self._node.close()

    def _open(self, **settings: Any) -> AbstractConnection:
        return self._address.connected_to(self._address.hosts[0] if self._address.hosts else None, **settings)


class Sentinel(Single):
    """The primary that the Sentinels name: each new connection asks them.

    A primary that was cut off, or hung, and is back goes on for some seconds as if it were one still, until the
    Sentinels demote it. So they are also asked now and then by the way, and connections to another one given up.
    """

    def __init__(self, address: Address, outages: Outages, service: str) -> None:
        super().__init__(address, outages)
        self._service = service
        self._sentinels = list(address.hosts)
        self._primary: Host | None = None
        self._confirm_at = 0.0

    def execute(self, key: str, *command: Argument) -> Any:
        self.confirm()
        return super().execute(key, *command)

    def pipeline(self, commands: Sequence[KeyedCommand]) -> list[Any]:
        self.confirm()
        return super().pipeline(commands)

    def confirm(self) -> None:
        if time.monotonic() >= self._confirm_at:
            self._confirm_at = time.monotonic() + CONFIRM
            threading.Thread(target=self._compare, name="sessionstatus-sentinel", daemon=True).start()

    def _compare(self) -> None:
        with suppress(redis.RedisError, OSError):
            if self._ask(self._sentinels[0]) != self._primary:
                self._node.connection().disconnect()

    def _open(self, **settings: Any) -> AbstractConnection:
        """A connection to a primary that a Sentinel names. One of them may be behind the others, and name one that is
        away, or none any more."""
        trouble: Exception = redis.ConnectionError(f"No Sentinel knows a primary of {self._service!r}.")
        tried: set[Host | None] = {None}
        until = time.monotonic() + TIMEOUT
        for sentinel in self._sentinels:
            try:
                named = self._ask(sentinel)
                if named not in tried:
                    tried.add(named)
                    connection = self._address.connected_to(named, **settings)
                    self._trust(sentinel, named)
                    return connection
            except (redis.RedisError, OSError) as error:
                trouble = error
            if time.monotonic() > until:
                break
        raise trouble

    def _ask(self, sentinel: Host) -> Host | None:
        """Whom a Sentinel calls the primary. Raises redis.RedisError and OSError."""
        connection = self._address.sentinel_at(sentinel)
        try:
            connection.connect()
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            found = connection.read_response()
        finally:
            connection.disconnect()
        return (found[0].decode(), int(found[1])) if found else None

    def _trust(self, sentinel: Host, primary: Host | None) -> None:
        """A Sentinel was right: it is asked first the next time. Connections to another primary are given up."""
        self._sentinels = sorted(self._sentinels, key=sentinel.__ne__)
        known, self._primary = self._primary, primary
        if known not in (None, primary):
            self.version += 1
            self._node.renew()
