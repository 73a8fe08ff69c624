"""The engine: what works behind one app in one process."""

from __future__ import annotations

import logging
import threading
import time

from .errors import SessionStatusError, StoreUnavailable
from .leases import Beats
from .models import TaskState
from .stores.base import End, Store
from .streaming.entry import Bounds, Entry
from .streaming.frames import end_data
from .streaming.hub import Hub
from .streaming.outbox import Outbox
from .streaming.stalls import Stalls

LEAVE_WAIT = 1.0
"""How long sockets may take to say what they counted (s)."""

log = logging.getLogger("flask_sessionstatus")


class Engine:
    """What the runs and streams of one app share in one process: store, outbox, hub, beats, and the look for stalls."""

    def __init__(
        self,
        store: Store,
        *,
        heartbeat: float = 5.0,
        max_followers: int = 1000,
        max_event_bytes: int = 65_536,
        max_result_bytes: int = 1_048_576,
        max_events: int = 10_000,
        store_tracebacks: bool = False,
    ) -> None:
        self.store = store
        self.max_event_bytes = max_event_bytes
        self.max_result_bytes = max_result_bytes
        self.store_tracebacks = store_tracebacks
        self.hub = Hub(store, max_followers)
        self.outbox = Outbox(store, Bounds(events=max_events), on_stored_end=self._remember_duration)
        self.beats = Beats(store, self.outbox, heartbeat)
        self.tallies = self.beats.tallies
        self.presence = self.beats.presence
        self.stalls = Stalls(heartbeat)
        self._closing = False
        self._shutting_down = threading.Lock()

    @property
    def closing(self) -> bool:
        """Whether this process is ending: nothing is begun here any more."""
        return self._closing or self.hub.closed

    def _remember_duration(self, entry: Entry) -> None:
        if entry.duration is None:
            return
        try:
            self.store.record_duration(entry.task.type, entry.duration)
        except SessionStatusError as error:
            log.info("A duration of %s was not remembered: %s", entry.task.type, error)

    def shutdown(self, timeout: float) -> bool:
        """End what runs here, store what is left and let go; False when that took longer than `timeout` s.

        Once is enough: a second call waits for the first and finds nothing to do.
        """
        self._closing = True
        with self._shutting_down:
            return self.hub.closed or self._shutdown(timeout)

    def _shutdown(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        for entry in self.outbox.running():
            error = ("Shutdown", "The process that did the work was shut down.")
            self.outbox.end(
                entry, End(TaskState.ERROR.value, *error), end_data(entry.ref.task_id, TaskState.ERROR, *error)
            )
            self.outbox.request_cancel(entry.ref.task_id, 0)
        stored = self.outbox.close(timeout)
        self.beats.close()
        self.hub.close()
        self.presence.wait_until_gone(LEAVE_WAIT)
        try:
            self.beats.tell()
        except StoreUnavailable as error:
            log.warning("What was counted last is lost: %s", error)
        return self.store.hand_over(max(0.0, until - time.monotonic())) and stored
