"""The beat thread: apart from all output, it renews the leases of this process and writes what was counted here."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from uuid import uuid4

from .errors import StoreUnavailable
from .native import NativeBeats
from .stores.base import Store, Tally
from .streaming.outbox import Outbox

log = logging.getLogger("flask_sessionstatus")

BATCH = 128
RETRY = 0.5


class Tallies:
    """Counts in the process what happens in sessions; written with the beat, so that counting costs no write.

    Exact across processes: one whose answer was lost is written again as it was, and the store tells it by its number.
    """

    def __init__(self, store: Store, on_first: Callable[[], None]) -> None:
        self._store = store
        self._on_first = on_first
        self._writer = uuid4().hex[:16]
        self._number = 0
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._counts: dict[str, dict[str, int]] = {}
        self._unwritten: list[Tally] = []

    def add(self, session_id: str, amounts: Mapping[str, int]) -> None:
        """Count amounts of a session by field: see `codec.session_from`."""
        with self._lock:
            first = not self._counts
            counts = self._counts.setdefault(session_id, {})
            for name, amount in amounts.items():
                counts[name] = counts.get(name, 0) + amount
        if first:
            self._on_first()

    def write(self) -> None:
        """Write what was counted; while the store is away it is kept. Raises StoreUnavailable."""
        with self._writing:
            self._send()
            self._take()
            self._send()

    def _take(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, {}
        self._number += 1
        self._unwritten = [Tally(each, amounts, self._writer, self._number) for each, amounts in counts.items()]

    def _send(self) -> None:
        while self._unwritten:
            some = self._unwritten[:BATCH]
            answers = self._store.tally(some)
            for tally, answer in zip(some, answers):
                if isinstance(answer, StoreUnavailable):
                    raise answer
                if isinstance(answer, Exception):
                    log.warning("What was counted of session %s is lost: %s", tally.session_id[:8], answer)
            del self._unwritten[:BATCH]


class Presence:
    """The sessions that somebody is connected to in this process: they do not expire meanwhile.

    A beat touches each only once its time to live has run down by a quarter.
    """

    def __init__(
        self, store: Store, on_first: Callable[[], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._on_first = on_first
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._connected: dict[str, int] = {}
        self._touched: dict[str, float] = {}

    def enter(self, session_id: str) -> None:
        """Somebody has connected; the session was touched just before."""
        with self._changed:
            self._connected[session_id] = self._connected.get(session_id, 0) + 1
            self._touched[session_id] = self._monotonic()
        self._on_first()

    def leave(self, session_id: str) -> None:
        """A connection was closed."""
        with self._changed:
            self._connected[session_id] -= 1
            if not self._connected[session_id]:
                del self._connected[session_id], self._touched[session_id]
            self._changed.notify_all()

    def touch(self) -> None:
        """Let those sessions live on whose turn it is. Raises StoreUnavailable."""
        now = self._monotonic()
        pause = self._store.limits.session_ttl / 4000
        with self._changed:
            due = [session_id for session_id, at in self._touched.items() if now - at >= pause]
        for start in range(0, len(due), BATCH):
            some = due[start : start + BATCH]
            answers = self._store.touch(some)
            with self._changed:
                for session_id, answer in zip(some, answers):
                    if not isinstance(answer, StoreUnavailable) and session_id in self._touched:
                        self._touched[session_id] = now

    def wait_until_gone(self, timeout: float) -> bool:
        """Wait until nobody is connected; False when `timeout` (s) ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._connected, timeout)


class Beats:
    """Beats every `heartbeat` seconds, and when woken; after a failure it tries again sooner."""

    def __init__(self, store: Store, outbox: Outbox, heartbeat: float) -> None:
        self._store = store
        self._outbox = outbox
        self._heartbeat = heartbeat
        self.tallies = Tallies(store, self.ensure)
        self.presence = Presence(store, self.ensure)
        store.counting.on_first = self.ensure
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()
        self._closed = False
        self._begun_at = time.monotonic()
        self._native: NativeBeats | None = None

    def stand_by(self, make_store: Callable[[], Store] | None) -> None:
        """Let a native thread beat while this one, a greenlet, does not get its turn; see NativeBeats."""
        self._native = NativeBeats(self._store, make_store, self._outbox, self._heartbeat, lambda: self._begun_at)

    def ensure(self) -> None:
        """Start the thread unless it runs."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="sessionstatus-beats", daemon=True)
                self._thread.start()
        if self._native is not None:
            self._native.ensure()

    def wake(self) -> None:
        """Beat now: somebody may have asked a task of this process to stop."""
        self._woken.set()

    def close(self) -> None:
        """End the thread; nothing is renewed any more."""
        self._closed = True
        self._woken.set()
        if self._native is not None:
            self._native.close()

    def _run(self) -> None:
        wait = self._heartbeat
        while True:
            self._woken.wait(wait)
            self._woken.clear()
            if self._closed:
                return
            self._begun_at = time.monotonic()
            try:
                wait = self._heartbeat if self.beat() else min(RETRY, self._heartbeat)
            except Exception:  # whatever goes wrong in one beat, the next must come
                log.exception("A beat failed.")
                wait = self._heartbeat

    def beat(self) -> bool:
        """Renew every lease once; False when the store could not be asked."""
        unreached: set[str] = set()
        beats = self._outbox.beats()
        for start in range(0, len(beats), BATCH):
            some = beats[start : start + BATCH]
            try:
                answers = self._store.beat(some)
            except StoreUnavailable:
                return False
            for beat, answer in zip(some, answers):
                if isinstance(answer, StoreUnavailable):
                    unreached.add(beat.ref.task_id)
                    continue
                if isinstance(answer, Exception):
                    log.warning("Task %s: %s", beat.ref.task_id[:8], answer)
                    continue
                try:
                    self._outbox.answered(beat, answer)
                except Exception:  # one task's trouble must not keep the others from their beat
                    log.exception("The beat could not go on with task %s.", beat.ref.task_id[:8])
        self._outbox.release(unreached)
        try:
            self.presence.touch()
            self.tell()
        except StoreUnavailable:
            return False
        return not unreached

    def tell(self) -> None:
        """Write what was counted in this process. Raises StoreUnavailable."""
        self.tallies.write()
        self._store.totals()
