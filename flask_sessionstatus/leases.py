"""The beat thread: renews the lease of every task of this process, apart from its output."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .errors import StoreUnavailable
from .stores.base import Store
from .streaming.outbox import Outbox

log = logging.getLogger("flask_sessionstatus")

BATCH = 128
RETRY = 0.5


class Accesses:
    """Counts in the process how often sessions are read; written with the beat, so that a read costs no write."""

    def __init__(self, store: Store, on_first: Callable[[], None]) -> None:
        self._store = store
        self._on_first = on_first
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def count(self, session_id: str) -> None:
        """One more read."""
        with self._lock:
            first = not self._counts
            self._counts[session_id] = self._counts.get(session_id, 0) + 1
        if first:
            self._on_first()

    def write(self) -> None:
        """Write what was counted; while the store is away it is kept. Raises StoreUnavailable."""
        with self._lock:
            counts, self._counts = self._counts, {}
        try:
            self._store.record_accesses(counts)
        except StoreUnavailable:
            with self._lock:
                for session_id, count in counts.items():
                    self._counts[session_id] = self._counts.get(session_id, 0) + count
            raise


class Beats:
    """Beats every `heartbeat` seconds, and when woken; after a failure it tries again sooner."""

    def __init__(self, store: Store, outbox: Outbox, heartbeat: float) -> None:
        self._store = store
        self._outbox = outbox
        self._heartbeat = heartbeat
        self.accesses = Accesses(store, self.ensure)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._closed = False

    def ensure(self) -> None:
        """Start the thread unless it runs."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="sessionstatus-beats", daemon=True)
                self._thread.start()

    def wake(self) -> None:
        """Beat now: somebody may have asked a task of this process to stop."""
        self._woken.set()

    def close(self) -> None:
        """End the thread; nothing is renewed any more."""
        self._closed = True
        self._woken.set()

    def _run(self) -> None:
        wait = self._heartbeat
        while True:
            self._woken.wait(wait)
            self._woken.clear()
            if self._closed:
                return
            try:
                wait = self._heartbeat if self.beat() else min(RETRY, self._heartbeat)
            except Exception:  # whatever goes wrong in one beat, the next must come
                log.exception("A beat failed.")
                wait = self._heartbeat

    def beat(self) -> bool:
        """Renew every lease once; False when the store could not be asked."""
        reached = True
        beats = self._outbox.beats()
        for start in range(0, len(beats), BATCH):
            some = beats[start : start + BATCH]
            try:
                answers = self._store.beat(some)
            except StoreUnavailable:
                return False
            for beat, answer in zip(some, answers):
                if isinstance(answer, Exception):
                    reached = reached and not isinstance(answer, StoreUnavailable)
                    log.warning("Task %s: %s", beat.ref.task_id[:8], answer)
                else:
                    self._outbox.answered(beat.ref.task_id, answer)
        self._outbox.release()
        try:
            self.accesses.write()
        except StoreUnavailable:
            return False
        return reached
