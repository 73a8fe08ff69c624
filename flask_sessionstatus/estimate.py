"""Estimated completion: pure functions over recorded times. Nothing is guessed: without a basis the answer is None."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOW = 0.5
"""The averaging window of the rate, as a part of the time elapsed."""

MINIMUM_DURATIONS = 3
KEPT_DURATIONS = 20


@dataclass
class RateMeter:
    """A time-weighted moving average of how fast `current` grows, in units per ms; its window grows with the time
    elapsed."""

    started: float
    _at: float | None = None
    _current: float = 0.0
    _rate: float | None = None

    def update(self, now: float, current: float) -> None:
        """Take note that the work stood at `current` at `now` (ms)."""
        since = self.started if self._at is None else self._at
        passed = now - since
        if passed <= 0:
            return
        rate = max(0.0, current - self._current) / passed
        weight = 1 - math.exp(-passed / (WINDOW * max(now - self.started, 1.0)))
        self._rate = rate if self._rate is None else self._rate + weight * (rate - self._rate)
        self._at, self._current = now, current

    def remaining(self, total: float) -> int | None:
        """How long the rest takes at the present rate, in ms; None while nothing is known."""
        if not self._rate:
            return None
        return max(0, round((total - self._current) / self._rate))


def from_progress(remaining: int, measured_at: int, now: int) -> int:
    """When a task ends that had `remaining` ms to go at `measured_at`; never in the past."""
    return max(measured_at + remaining, now)


def from_history(durations: Sequence[int], started_at: int, now: int) -> int | None:
    """When a task ends, by the median of the past durations (ms) that exceed the time already elapsed; else None."""
    if len(durations) < MINIMUM_DURATIONS:
        return None
    longer = [duration for duration in durations if duration > now - started_at]
    return started_at + round(median(longer)) if longer else None
