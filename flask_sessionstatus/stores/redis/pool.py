"""The connections of one server, a bounded number: those that are not in use, and who waits for one."""

from __future__ import annotations

from queue import Empty

from redis.connection import AbstractConnection

from .fair import FairQueue


class Pool:
    """Places for `size` connections, each empty or with an idle connection; the one used last is taken first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._places: FairQueue[AbstractConnection | None] = FairQueue(size)
        for _ in range(size):
            self._places.put_nowait(None)

    def take(self, wait: float) -> AbstractConnection | None:
        """Take a place with what is in it, waiting up to `wait` s for one. Raises TimeoutError."""
        try:
            return self._places.get(timeout=wait)
        except Empty:
            raise TimeoutError from None

    def give_back(self, connection: AbstractConnection | None) -> None:
        """Give a place back, empty or with a connection that stands."""
        self._places.put_nowait(connection)

    def clear(self) -> None:
        """Close the connections that are not in use; their places stay."""
        places = []
        for _ in range(self._size):
            try:
                places.append(self._places.get(block=False))
            except Empty:
                break
        for connection in places:
            if connection is not None:
                connection.disconnect()
            self.give_back(None)
