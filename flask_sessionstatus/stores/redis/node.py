"""One server: its bounded pool of connections, its circuit, and whether it is still the one that it was."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import redis
from redis.connection import AbstractConnection

from .circuit import Circuit, Refused, Unsent
from .outages import Outages
from .pool import Pool
from .replies import DEMOTED, UNWILLING, code_of

Argument = str | int | bytes
Command = Sequence[Argument]


class Crowded(Unsent):
    """All connections are in use: a crowd, not an outage."""


class Taken(NamedTuple):
    """A connection in use. `trial`: its call is the circuit's trial; `age`: how often all were made anew before it."""

    connection: AbstractConnection
    trial: bool
    age: int


class Node:
    """A server that is called. `opening` gives a new connection that stands: `opening(**settings)`.

    With `only_primary` a server that turns out to be a replica counts as away.
    """

    def __init__(
        self,
        name: str,
        opening: Callable[..., AbstractConnection],
        outages: Outages,
        *,
        size: int,
        wait: float,
        only_primary: bool = True,
    ) -> None:
        self.name = name
        self.circuit = Circuit()
        self.answered_at = outages.monotonic()
        self._opening = opening
        self._outages = outages
        self._wait = wait
        self._only_primary = only_primary
        self._run_id: bytes | None = None
        self._age = 0
        self._pool = Pool(size)

    def execute(self, *command: Argument) -> Any:
        """The reply of one command. Raises redis.RedisError and OSError; Unsent when it certainly did nothing.

        Straight over a connection: `redis.Redis` wraps each call in retries (off here) and metrics, at a tenth of the
        cost of a status read.
        """
        taken = self._take()
        connection = taken.connection
        try:
            connection.send_command(*command)
            reply = connection.read_response()
        except redis.ResponseError as error:
            self.give_back(taken, [error])
            raise
        except BaseException as error:
            self.give_up(taken, error)
            raise
        self.give_back(taken)
        return reply

    def send(self, commands: Sequence[Command]) -> Exchange:
        """Send commands in one go; their replies are still to be received. Raises as execute does."""
        taken = self._take()
        try:
            taken.connection.send_packed_command(taken.connection.pack_commands(commands))
        except BaseException as error:
            self.give_up(taken, error)
            raise
        return Exchange(self, taken, len(commands))

    def connection(self, **settings: Any) -> AbstractConnection:
        """A new connection outside the pool. Raises redis.RedisError and OSError."""
        return self._opening(redis_connect_func=self._set_up, **settings)

    def renew(self) -> None:
        """Let all connections be made anew, wherever the server is then; those in use once they are given back."""
        self._age += 1
        self._pool.clear()

    def close(self) -> None:
        """Close the connections; those in use once they are given back."""
        self.renew()

    # The pool

    def _take(self) -> Taken:
        """A connection that stands."""
        if self.circuit.refuses:  # nobody waits in the crowd for that
            raise Refused("The server was away a moment ago.")
        was_open = self.circuit.is_open
        try:
            connection = self._pool.take(self._wait)
        except TimeoutError:
            raise Crowded("No connection is free.") from None
        if self.circuit.is_open and not was_open:  # whoever has waited here already is not the one to try
            self._pool.give_back(connection)
            raise Refused("The server went away a moment ago.")
        age = self._age
        try:
            trial = self.circuit.enter()
        except Refused:
            self._pool.give_back(connection)
            raise
        try:
            if connection is not None and not _is_usable(connection):
                connection.disconnect()
                connection = None
            return Taken(self.connection() if connection is None else connection, trial, age)
        except BaseException as error:
            self._blame(error, trial, opens=True)
            self._pool.give_back(None)
            if isinstance(error, (redis.RedisError, OSError)):
                raise Unsent(str(error)) from error
            raise

    def give_back(self, taken: Taken, errors: Sequence[Exception] = ()) -> None:
        """The server answered; these error replies were among the answers."""
        codes = {code_of(error): error for error in errors}
        unwilling = next((error for code, error in codes.items() if code in (*DEMOTED, *UNWILLING)), None)
        self.answered_at = self._outages.monotonic()
        if unwilling is None:
            self._outages.answered(self.name)
        else:
            self._outages.failed(self.name, unwilling)
        if any(code in DEMOTED for code in codes):
            self.circuit.failed(taken.trial)
            self.renew()
        else:
            self.circuit.answered()
        if taken.age == self._age:
            self._pool.give_back(taken.connection)
        else:
            self._discard(taken)

    def give_up(self, taken: Taken, error: BaseException) -> None:
        """The call failed, and with it its connection."""
        # A connection that broke says nothing of the server: whether it can be reached, the next one will show.
        self._blame(error, taken.trial, opens=isinstance(error, (redis.TimeoutError, redis.BusyLoadingError)))
        self._discard(taken)

    def _blame(self, error: BaseException, trial: bool, opens: bool) -> None:
        """A call was not answered; `opens`: that opens the circuit."""
        if not isinstance(error, (redis.RedisError, OSError)):
            self.circuit.left(trial)
            return
        if trial or opens:
            self.circuit.failed(trial)
        self._outages.failed(self.name, error)

    def _discard(self, taken: Taken) -> None:
        taken.connection.disconnect()
        self._pool.give_back(None)

    # What it is connected to

    def _set_up(self, connection: AbstractConnection) -> None:
        """Set a new connection up, and see whether the server is another one than before, and a primary.

        Idle connections that broke in silence are made anew: a process that asked nothing during an outage learns of it
        here.
        """
        connection.on_connect()
        connection.send_packed_command(connection.pack_commands([("INFO", "server"), ("ROLE",)]))
        info, role = _answer(connection), _answer(connection)
        if self._only_primary and isinstance(role, list) and role[0] != b"master":
            raise redis.ConnectionError(f"The server is no primary but a {role[0].decode()}.")
        found = re.search(rb"run_id:(\w+)", info) if isinstance(info, bytes) else None
        if found is not None:
            known, self._run_id = self._run_id, found[1]
            if known not in (None, self._run_id):
                self._outages.replaced(self.answered_at)


class Exchange:
    """Commands on their way to a server. Its replies are received, or it is abandoned."""

    def __init__(self, node: Node, taken: Taken, count: int) -> None:
        self._node = node
        self._taken = taken
        self._count = count
        self._under_way = True

    def receive(self) -> list[Any]:
        """The replies, error replies in their places. Raises redis.RedisError and OSError."""
        self._under_way = False
        replies: list[Any] = []
        try:
            for _ in range(self._count):
                try:
                    replies.append(self._taken.connection.read_response())
                except redis.ResponseError as error:
                    replies.append(error)
        except BaseException as error:
            self._node.give_up(self._taken, error)
            raise
        self._node.give_back(self._taken, [reply for reply in replies if isinstance(reply, Exception)])
        return replies

    def abandon(self) -> None:
        """Nobody will receive the replies, unless somebody has."""
        if self._under_way:
            self._under_way = False
            self._node.give_up(self._taken, GeneratorExit())


def _is_usable(connection: AbstractConnection) -> bool:
    """Whether an idle connection still stands, with nothing left to be read."""
    try:
        return not connection.can_read()
    except (redis.RedisError, OSError):
        return False


def _answer(connection: AbstractConnection) -> Any:
    """A reply; None where it is not allowed here."""
    try:
        return connection.read_response()
    except redis.ResponseError:
        return None
