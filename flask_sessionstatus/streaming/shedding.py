"""When the streams that are closed or turned away here come back: no more in a second than can be answered.

A browser's EventSource waits for as long as it is told and no longer: a crowd that is told the same is back at once.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from . import frames

RATE = 100
LONGEST = 30_000


class Shedding:
    """Counts the streams that are shed, and spreads their return: RATE a second, the first of them after RETRY_MS.

    Nobody stays away for more than LONGEST ms: of a larger crowd more come back in a second, at times by chance.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._under_way = 0.0
        self._at = monotonic()

    def retry(self) -> int:
        """When one more is to come back (ms)."""
        with self._lock:
            now = self._monotonic()
            self._under_way = max(0.0, self._under_way - RATE * (now - self._at)) + 1
            self._at = now
            last = int(1000 * self._under_way / RATE)
        if last <= LONGEST:
            return max(frames.RETRY_MS, last)
        return random.randint(frames.RETRY_MS, LONGEST)
