"""The bell between those who hand something over and the thread that takes it up."""

from __future__ import annotations

from queue import Empty, SimpleQueue


class Bell:
    """Wakes the flusher; while it is awake anyway, ringing costs next to nothing."""

    def __init__(self) -> None:
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._rung = False

    def listen(self) -> None:
        """From here on a ring counts: look for what there is to do, and if there is nothing, wait."""
        while not self._tokens.empty():
            self._tokens.get()
        # Only now: a ring that came meanwhile has something to find already, and the next one must be heard.
        self._rung = False

    def ring(self) -> None:
        """Wake the flusher, or keep it from falling asleep; to be called once there is something to find."""
        if not self._rung:
            self._rung = True
            self._tokens.put(None)

    def wait(self, timeout: float | None) -> None:
        """Sleep until a ring, at most `timeout` s."""
        try:
            self._tokens.get(timeout=timeout)
        except Empty:
            pass
