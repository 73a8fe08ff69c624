"""A circuit: while a server is away, calls are refused at once, and one at a time tries whether it is back."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import redis

FIRST_PAUSE, MAX_PAUSE = 0.05, 0.25
"""Seconds. The longest stays well below a second: for so long a server that is back is not noticed."""


class Unsent(redis.ConnectionError):
    """A call that reached no server: it certainly did nothing."""


class Refused(Unsent):
    """A call that nobody tried to make: the server was away a moment ago."""


class Circuit:
    """Closed until a call fails. Then the next one is a trial; after it failed too, trials come at growing, jittered
    intervals. Whatever else is asked meanwhile is refused."""

    def __init__(
        self,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.0),
    ) -> None:
        self._monotonic = monotonic
        self._jitter = jitter
        self._lock = threading.Lock()
        self._failures = 0
        self._due = 0.0
        self._trying = False

    @property
    def is_open(self) -> bool:
        return self._failures > 0

    @property
    def refuses(self) -> bool:
        """Whether a call would be refused at this moment."""
        return self._failures > 0 and (self._trying or self._monotonic() < self._due)

    def enter(self) -> bool:
        """Ask for a call; True: it is the trial, and says how it went. Raises Refused."""
        if not self._failures:
            return False
        with self._lock:
            if self.refuses:
                raise Refused("The server was away a moment ago.")
            self._trying = self._failures > 0
            return self._trying

    def failed(self, trial: bool) -> None:
        """A call did not reach the server, or got no answer in time. Calls that were under way when the circuit opened
        say nothing new."""
        with self._lock:
            if trial:
                self._trying = False
            elif self._failures:
                return
            self._failures += 1
            if self._failures > 1:
                pause = min(MAX_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 2, 8))
                self._due = self._monotonic() + pause * self._jitter()

    def answered(self) -> None:
        """The server answered."""
        if self._failures:
            with self._lock:
                self._failures, self._due, self._trying = 0, 0.0, False

    def left(self, trial: bool) -> None:
        """A call was broken off and says nothing of the server."""
        if trial:
            with self._lock:
                self._trying = False
