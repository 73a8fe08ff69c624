"""The memory of an outage: what was not renewed in time may only have been out of reach, and what is missing may be
made again by those who write it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from ..base import Limits

log = logging.getLogger("flask_sessionstatus")

QUIET = 60.0
"""Seconds: so long a store that comes and goes is not reported again."""


class Outages:
    """Which servers of a store are away, and since when one was. Servers have names; a store of one has one."""

    def __init__(self, limits: Limits, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self.monotonic = monotonic
        self._lock = threading.Lock()
        self._away: set[str] = set()
        self._failed_since: float | None = None
        self._recovered_at: float | None = None
        self._replaced_at: float | None = None
        self._reported_at: float | None = None
        self._reported = False
        self.replacements = 0
        """How often a server turned out to be another one than before."""

    def failed(self, name: str, error: Exception) -> None:
        """A server could not be asked, or refuses to work."""
        with self._lock:
            if name in self._away:
                return
            self._away.add(name)
            now = self.monotonic()
            self._failed_since = now if self._failed_since is None else self._failed_since
            self._recovered_at = None
            if self._reported_at is None or now - self._reported_at > QUIET:
                self._reported_at, self._reported = now, True
                log.warning("The store is unavailable: %s: %s", type(error).__name__, error)

    def answered(self, name: str) -> None:
        """A server does what it is asked for."""
        if self._failed_since is None:
            return
        with self._lock:
            self._away.discard(name)
            self._see_whether_over()

    def keep_only(self, names: Collection[str]) -> None:
        """Forget the servers that have been replaced by others."""
        with self._lock:
            if self._failed_since is not None:
                self._away.intersection_update(names)
                self._see_whether_over()

    def replaced(self, answered_at: float) -> None:
        """A server is another one than before, or has started again, since it answered (on the monotonic clock)."""
        with self._lock:
            self.replacements += 1
            self._replaced_at = self.monotonic()
            if not self._away:
                log.warning("The store is another server than before, or has started again.")
                self._failed_since = answered_at if self._failed_since is None else self._failed_since
                self._recovered_at = self.monotonic()

    def _see_whether_over(self) -> None:
        now = self.monotonic()
        if self._away or self._failed_since is None:
            return
        if self._recovered_at is None:
            self._recovered_at = now
            if self._reported:
                self._reported = False
                log.warning("The store is available again.")
        elif now - self._recovered_at > self._limits.lease / 1000:
            self._failed_since = self._recovered_at = self._reported_at = None

    @property
    def recovering(self) -> bool:
        """True for two heartbeats after an outage: the writers may not have healed the store yet."""
        return self._is_recent(self._recovered_at)

    @property
    def forgetful(self) -> bool:
        """True for two heartbeats after another server took over, or one started again: it may have lost tasks that
        run."""
        return self._is_recent(self._replaced_at)

    def _is_recent(self, at: float | None) -> bool:
        return at is not None and self.monotonic() - at < 2 * self._limits.heartbeat / 1000

    @property
    def grace(self) -> int:
        """For how long before now a lease may have run out only because nobody could renew it (ms)."""
        failed = self._failed_since
        return 0 if failed is None else round((self.monotonic() - failed) * 1000)
