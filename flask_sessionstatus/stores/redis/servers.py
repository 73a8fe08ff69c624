"""The servers behind a store, whatever their topology: who is asked for a key is decided here, and nowhere else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from redis.connection import AbstractConnection

from .node import Argument, Command, Node

KeyedCommand = tuple[str, Command]
"""A command with the key that decides who is asked; an empty key: whoever it may be."""


class Servers(ABC):
    """What a topology does. Everything raises redis.RedisError and OSError."""

    guarded = False
    """Whether a script must name, beside its own key, one of that slot which never exists: while a slot moves between
    nodes, its keys lie here and there, and with a missing key among several no node runs the script on half of them."""

    version = 0
    """Rises when whoever holds a connection of its own should make it anew: it may lead to nobody any more."""

    @abstractmethod
    def execute(self, key: str, *command: Argument) -> Any:
        """The reply of one command."""

    @abstractmethod
    def pipeline(self, commands: Sequence[KeyedCommand]) -> list[Any]:
        """The replies of commands that are sent in one go; errors of all kinds stand in their places."""

    @abstractmethod
    def subscriber(self, timeout: float) -> AbstractConnection:
        """A new connection to a server that hears what is published anywhere; reads take at most `timeout` s."""

    @abstractmethod
    def primaries(self) -> Sequence[Node]:
        """All servers that hold keys, as far as it is known now."""

    @abstractmethod
    def confirm(self) -> None:
        """See, now and then, whether the connections still lead to those who should be asked; nobody waits for that."""

    @abstractmethod
    def ping(self) -> None:
        """Return if every server that is needed answers, over new connections: the others may lead to whom it was."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""
