"""Wake-ups from whichever of the two stores is the one that counts."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..base import OnWakeup, Wakeups
from .outage import OutageMemory


class FallbackWakeups(Wakeups):
    """Hears of the store that is away as soon as it is back, and of the memory of an outage while there is one."""

    def __init__(
        self,
        on_wakeup: OnWakeup,
        subscribe: Callable[[OnWakeup], Wakeups],
        on_close: Callable[[FallbackWakeups], None],
    ) -> None:
        self._on_wakeup = on_wakeup
        self._on_close = on_close
        self._lock = threading.Lock()
        self._channels: set[str] = set()
        self._here: Wakeups | None = None
        self._memory: OutageMemory | None = None
        self._there = subscribe(self._heard)

    def watch(self, channel: str) -> None:
        with self._lock:
            self._channels.add(channel)
            here = self._here
        self._there.watch(channel)
        if here is not None:
            here.watch(channel)

    def forget(self, channel: str) -> None:
        with self._lock:
            self._channels.discard(channel)
            here = self._here
        self._there.forget(channel)
        if here is not None:
            here.forget(channel)

    @property
    def healthy(self) -> bool:
        if self._memory is None:
            return self._there.healthy
        return not self._memory.has_adopted  # a task of before is looked for until its outbox has made it again here

    def close(self) -> None:
        self._on_close(self)
        with self._lock:
            here, self._here = self._here, None
        if here is not None:
            here.close()
        self._there.close()

    def say_look(self) -> None:
        """Have everybody look at everything."""
        self._on_wakeup("", None)

    def attach(self, memory: OutageMemory | None) -> None:
        """From here on this memory counts; None: the store that is back."""
        if memory is self._memory:  # made while an outage began, and told of it twice
            return
        here = memory.wakeups(self._on_wakeup) if memory is not None else None
        with self._lock:
            self._here, self._memory = here, memory
            channels = list(self._channels)
        if here is not None:
            for channel in channels:
                here.watch(channel)

    def _heard(self, channel: str, hint: bytes | None) -> None:
        # What is being handed over is announced as well, and is not news here.
        if not channel or self._here is None:
            self._on_wakeup(channel, hint)
