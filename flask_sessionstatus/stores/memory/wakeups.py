"""Wake-ups within the process."""

from __future__ import annotations

from collections.abc import Callable

from ..base import OnWakeup, Wakeups


class MemoryWakeups(Wakeups):
    """Wake-ups within the process: the store calls, nothing gets lost."""

    def __init__(self, on_wakeup: OnWakeup, on_close: Callable[[MemoryWakeups], None]) -> None:
        self.on_wakeup = on_wakeup
        self.channels: set[str] = set()
        self._on_close = on_close

    def watch(self, channel: str) -> None:
        self.channels.add(channel)

    def forget(self, channel: str) -> None:
        self.channels.discard(channel)

    @property
    def healthy(self) -> bool:
        return True

    def close(self) -> None:
        self._on_close(self)
