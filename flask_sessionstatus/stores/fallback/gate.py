"""The gate that writers go through, so that for a moment none of them is inside."""

from __future__ import annotations

import threading
import time


class Gate:
    """Open until it is held; once it is shut for good, nobody enters any more."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._held = False
        self._shut = False

    def enter(self) -> bool:
        """Go in, waiting while it is held; False when it is shut. Leave it with leave."""
        with self._changed:
            while self._held:
                self._changed.wait()
            if not self._shut:
                self._inside += 1
            return not self._shut

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                self._changed.notify_all()

    def hold(self, timeout: float) -> bool:
        """Keep everybody out, once those inside have left; False, and open, when that took longer than `timeout` s."""
        until = time.monotonic() + timeout
        with self._changed:
            self._held = True
            try:
                while self._inside:
                    left = until - time.monotonic()
                    if left <= 0:
                        self._open()
                        return False
                    self._changed.wait(left)
            except BaseException:  # such as an interrupt: nobody would let the others in
                self._open()
                raise
            return True

    def release(self, *, shut: bool) -> None:
        """Let those who wait go in, or tell them that it is shut."""
        with self._changed:
            self._shut = shut
            self._open()

    def _open(self) -> None:
        self._held = False
        self._changed.notify_all()
