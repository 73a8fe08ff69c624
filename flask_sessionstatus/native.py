"""Under gevent the beat thread is a greenlet: while another one computes, it does not get its turn, and leases run out.

So a native thread looks on, and renews the leases while the greenlet is held up. It has a store of its own: a
connection belongs to the hub of the thread that made it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .errors import StoreUnavailable
from .stores.base import Store
from .streaming.outbox import Outbox

log = logging.getLogger("flask_sessionstatus")

BATCH = 128
LATE = 1.1
LOOKS = 4


class NativeBeats:
    """Renews the leases from a native thread when `beaten_at` (monotonic, s) is more than a heartbeat ago.

    It takes nothing up that the store answers: the greenlet will, once it gets its turn. `make_store` is None where the
    store has no connections and can be used as it is.
    """

    def __init__(
        self,
        store: Store,
        make_store: Callable[[], Store] | None,
        outbox: Outbox,
        heartbeat: float,
        beaten_at: Callable[[], float],
    ) -> None:
        self._shared = store
        self._make_store = make_store
        self._outbox = outbox
        self._heartbeat = heartbeat
        self._beaten_at = beaten_at
        self._own: Store | None = None
        self._running = False
        self._closed = False

    def ensure(self) -> None:
        """Start the thread unless it runs."""
        from gevent.monkey import get_original

        if not self._running:
            self._running = True
            get_original("_thread", "start_new_thread")(self._run, (get_original("time", "sleep"),))

    def close(self) -> None:
        """End the thread, at its next look."""
        self._closed = True

    def _run(self, sleep: Callable[[float], None]) -> None:
        while not self._closed:
            sleep(self._heartbeat / LOOKS)
            if time.monotonic() - self._beaten_at() > LATE * self._heartbeat:
                try:
                    self._beat()
                except StoreUnavailable as error:
                    log.info("The leases were not renewed beside gevent: %s", error)
                except Exception:  # whatever goes wrong in one beat, the next must come
                    log.exception("A beat beside gevent failed.")
        if self._own is not None:
            from gevent import get_hub

            self._own.close()
            get_hub().destroy()

    def _beat(self) -> None:
        store = self._shared
        if self._make_store is not None:
            store = self._own = self._own or self._make_store()
        beats = self._outbox.beats_at_once()
        for start in range(0, len(beats), BATCH):
            store.beat(beats[start : start + BATCH])
