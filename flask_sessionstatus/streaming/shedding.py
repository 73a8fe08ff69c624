"""When the streams that are closed or turned away here come back: no more in a second than can be answered.

A browser's EventSource waits for as long as it is told and no longer: a crowd that is told the same is back at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

PER_SECOND = 200
LATEST_MS = 30_000
STEP_MS = 100


class Shedding:
    """Counts the streams that are shed, and spreads their return: PER_SECOND, a step after the other.

    Nobody is told to come back more than LATEST_MS later than usual: where that is too short, when is left to `chance`.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, chance: random.Random | None = None) -> None:
        self._monotonic = monotonic
        self._chance = chance or random.Random()
        self._lock = threading.Lock()
        self._under_way = 0.0
        self._at = monotonic()

    def later(self) -> int:
        """How much later than usual one more is to come back (ms)."""
        with self._lock:
            now = self._monotonic()
            before = max(0.0, self._under_way - PER_SECOND * (now - self._at))
            self._at = now
            later = STEP_MS * int(before / PER_SECOND * 1000 / STEP_MS)
            if later > LATEST_MS:
                self._under_way = before
                return self._chance.randrange(0, LATEST_MS, STEP_MS)
            self._under_way = before + 1
            return later
