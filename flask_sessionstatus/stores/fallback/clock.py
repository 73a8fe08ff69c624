"""Redis's time while Redis cannot be asked: this machine's monotonic clock, and how far it was behind."""

from __future__ import annotations

from collections.abc import Callable

TRUSTED = 10_000
"""Milliseconds: for so long an answer that came faster says more than a later one."""


class StoreClock:
    """Gives Unix ms by the store's clock, as learned from its answers; before the first of them by this machine's.

    Each answer's time is a bit old when it arrives, so the greatest difference is the nearest to the truth.
    """

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], int]) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._ahead: int | None = None
        self._learned_at = 0

    def learn(self, now: int) -> None:
        """An answer that came just now says that it is `now` (Unix ms)."""
        local = self._local()
        ahead = now - local
        if self._ahead is None or ahead >= self._ahead or local - self._learned_at > TRUSTED:
            self._ahead, self._learned_at = ahead, local

    @property
    def is_set(self) -> bool:
        """Whether the store ever said what time it is."""
        return self._ahead is not None

    def __call__(self) -> int:
        return self._wall() if self._ahead is None else self._local() + self._ahead

    def _local(self) -> int:
        return round(self._monotonic() * 1000)
