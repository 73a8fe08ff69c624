"""The request to stop, as it reaches the work: asked for at any moment, waited for, or told by a callback."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger("flask_sessionstatus")

Callback = Callable[[], object]


class Stop:
    """Made once for a task; made again it tells nobody anew. Each callback is called once, whoever comes first."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callback] = []

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the request, at most `timeout` s; says whether it was made."""
        return self._event.wait(timeout)

    def on_request(self, callback: Callback) -> None:
        """Call back when the request is made; at once if it was."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def request(self) -> None:
        """Make the request, and tell everybody who waits for it."""
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            try:
                callback()
            except BaseException:  # a callback of the host's must not end our thread, not even by sys.exit()
                log.exception("An on_cancel callback failed.")

    def forget(self) -> None:
        """Call nobody any more."""
        with self._lock:
            self._callbacks = []
