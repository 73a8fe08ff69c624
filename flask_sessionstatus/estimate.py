"""Estimated completion: pure functions over recorded times. Nothing is guessed: without a basis the answer is None."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WINDOW = 0.45
"""The averaging window of the rate, as a part of the time worked: the last 45 % of it make 74 % of the average."""

STALL = 2.0
"""A step that takes this many times as long as any before it has stalled; the time beyond says nothing of the rate."""

FURTHEST = 10**12
"""The longest rest that is told, in ms: some 30 years."""

MINIMUM_DURATIONS = 3
KEPT_DURATIONS = 20


@dataclass
class RateMeter:
    """A time-weighted moving average of how fast `current` grows, in units per ms; its window grows with the time
    worked.

    A moment counts by its distance from the begin, to the power of 1 / WINDOW - 1. So the first step needs no
    correction, and neither the unit, nor the clock's pace, nor how finely the work reports matters. (Averages over a
    fixed number of seconds or reports, as progress bars have them, know neither 2 s nor an hour.)

    A stall moves the end by as long as it lasts and leaves the rate as it is. Only what is slower than anything before
    is one: a pause that comes again belongs to the pace.
    """

    started: float
    _now: float = 0.0
    _current: float = 0.0
    _began: float | None = None
    _stepped: float = 0.0
    _done: float = 0.0
    _worked: float = 0.0
    _longest: float = 0.0
    _rate: float = 0.0

    def update(self, now: float, current: float) -> None:
        """Take note that the work stood at `current` at `now` (ms)."""
        self._now, self._current = now, current
        if self._began is None and current > 0:
            self._begin(self.started, 0.0)
        elif self._began is None or current < (self._began + self._done) / 2:
            # What goes back this far begins anew; a little less than before is a report that was overtaken.
            self._begin(now, current)
        step, passed = current - self._done, now - self._stepped
        # Reports within one ms count together; those without a step are part of the next one's time.
        if step <= 0 or passed < 1:
            return
        worked = self._counted(step, passed)
        kept = (self._worked / (self._worked + worked)) ** (1 / WINDOW)
        self._rate = kept * self._rate + (1 - kept) * step / worked
        self._worked += worked
        self._longest = max(self._longest, passed)
        self._stepped, self._done = now, current

    def remaining(self, total: float) -> int | None:
        """How long the rest takes at the present rate, in ms; None while nothing is known."""
        rate = self._rate
        if not rate:
            return None
        waited = self._counted(0.0, max(0.0, self._now - self._stepped))
        return round(min(max(0.0, max(0.0, total - self._current) / rate - waited), FURTHEST))

    def _begin(self, at: float, current: float) -> None:
        self._began = self._done = current
        self._stepped = at
        self._worked = self._longest = self._rate = 0.0

    def _counted(self, step: float, passed: float) -> float:
        """How much of the time that a step took was work: all of it, unless it stalled."""
        rate = self._rate
        if not rate:
            return passed
        return min(passed, max(STALL * self._longest, step / rate))


def from_progress(remaining: int, measured_at: int, now: int) -> int:
    """When a task ends that had `remaining` ms to go at `measured_at`; never in the past."""
    return max(measured_at + remaining, now)


def from_history(durations: Sequence[int], started_at: int, now: int) -> int | None:
    """When a task ends, by the median of the past durations (ms) that exceed the time already elapsed; else None."""
    if len(durations) < MINIMUM_DURATIONS:
        return None
    longer = [duration for duration in durations if duration > now - started_at]
    return started_at + round(median(longer)) if longer else None
