"""Whose turn it is to have a connection: a queue that hands what is given back to whoever has waited longest.

The standard library's wakes a waiter and lets whoever is quicker have it. A thread that has just given a connection
back is always quicker: in a crowd some then get every connection and others, the beat among them, none.
"""

from __future__ import annotations

import threading
from collections import deque
from queue import Empty, Full
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiter(Generic[T]):
    """Somebody who waits, and what was handed over."""

    def __init__(self) -> None:
        self.item: T
        self._given = threading.Lock()
        self._given.acquire()

    def give(self, item: T) -> None:
        self.item = item
        self._given.release()

    def wait(self, timeout: float | None) -> bool:
        """Whether something was handed over in time (s; None: without end)."""
        return self._given.acquire(timeout=-1 if timeout is None else timeout)


class FairQueue(Generic[T]):
    """The last in is the first out while nobody waits; else it goes to the one who came first."""

    def __init__(self, maxsize: int) -> None:
        self.queue: list[T] = []
        self._maxsize = maxsize
        self._lock = threading.Lock()
        self._waiters: deque[Waiter[T]] = deque()

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Raises Empty."""
        with self._lock:
            if self.queue:
                return self.queue.pop()
            if not block:
                raise Empty
            waiter: Waiter[T] = Waiter()
            self._waiters.append(waiter)
        try:
            given = waiter.wait(timeout)
        except BaseException:  # a greenlet may be killed while it waits
            if not self._withdrawn(waiter):
                self.put_nowait(waiter.item)
            raise
        if not given and self._withdrawn(waiter):
            raise Empty
        return waiter.item

    def _withdrawn(self, waiter: Waiter[T]) -> bool:
        """Wait no longer; False when something was handed over at the last moment."""
        with self._lock:
            if waiter not in self._waiters:
                return False
            self._waiters.remove(waiter)
            return True

    def put_nowait(self, item: T) -> None:
        """Raises Full."""
        with self._lock:
            if self._waiters:
                self._waiters.popleft().give(item)
            elif len(self.queue) == self._maxsize:
                raise Full
            else:
                self.queue.append(item)
