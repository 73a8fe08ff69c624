"""The hub: follows tasks for every client of this process, with one wake-up connection and shared reads.

What is delivered is always read from the log after the follower's own cursor. A wake-up only says when to look, so a
lost one costs a tick, never an event, and it does not matter whether one subscribes before or after reading.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable

from ..errors import StoreUnavailable
from ..models import ORIGIN, Cursor, Event
from ..stores.base import Page, Store, TaskRef, Wakeups

PAGE = 500
KEPT = 1000
TICK = 5.0
BROKEN_TICK = 0.5
FRESH = 0.45
HINTS = 64


class Channel:
    """One followed task and what its followers share: a stretch of its log, the frames made of it, the last look.

    `version` rises with each wake-up; a look at `version` or later need not be repeated.
    """

    def __init__(self, ref: TaskRef, name: str, lock: threading.Lock, monotonic: Callable[[], float]) -> None:
        self.ref = ref
        self.name = name
        self.followers = 0
        self.version = 0
        self.woken = threading.Condition(lock)
        self.reading = threading.Lock()
        self._looked: Page | None = None
        self._looked_version = -1
        self._looked_at = 0.0
        self._failed_at = float("-inf")
        self._monotonic = monotonic
        self._hints: deque[tuple[int, bytes]] = deque()
        self._since = ORIGIN
        self._events: list[Event] = []
        self._cursors: list[Cursor] = []
        self._frames: dict[Cursor, bytes] = {}

    def wake(self, hint: bytes | None) -> None:
        """Something may have happened; the hub's lock is held."""
        self.version += 1
        if hint is None or len(self._hints) == HINTS:
            self._hints.clear()
        if hint is not None:
            self._hints.append((self.version, hint))
        self.woken.notify_all()

    def _take_hints(self, store: Store) -> None:
        """Take up what wake-ups brought, as long as it goes on from the last look: that saves reading the log."""
        while self._hints and self._looked is not None:
            try:
                version, hint = self._hints.popleft()
            except IndexError:  # a wake-up without a hint cleared them
                return
            if version != self._looked_version + 1:
                continue
            hinted = store.hinted(self.ref, hint)
            if hinted is None:
                continue
            page, after = hinted
            if after == self._last:
                self._events.extend(page.events)
                self._cursors.extend(event.cursor for event in page.events)
            elif self._last < (page.events[-1].cursor if page.events else after):
                continue
            page.first = self._looked.first
            self._took(page, version)

    def _took(self, page: Page, version: int) -> None:
        self._looked, self._looked_version, self._looked_at = page, version, self._monotonic()

    def _is_fresh(self, version: int) -> bool:
        """Whether the last look need not be repeated: nothing happened since, it is not old, and no lease ran out."""
        looked = self._looked
        if looked is None or self._looked_version < version:
            return False
        age = self._monotonic() - self._looked_at
        deadline = looked.task.deadline
        expires = deadline is not None and looked.now < deadline
        return age < FRESH and not (expires and looked.now + age * 1000 >= (deadline or 0))

    def look(self, store: Store, after: Cursor, version: int) -> Page | None:
        """The events after a cursor, at most PAGE, with the task as of `version` or later."""
        with self.reading:
            self._take_hints(store)
            covered = self._covers(after)
            if not covered or not self._is_fresh(version):
                page = self._read(store, self._last if covered else after)
                # A cursor past the tail (of whomever) must not take the stretch away from the others.
                ahead = page is not None and after > self._last and (page.events or after == page.task.cursor)
                if page is None or not (covered or ahead):
                    return page
                if not covered:
                    self._since, self._events, self._cursors = after, [], []
                    self._frames.clear()
                self._events.extend(page.events)
                self._cursors.extend(event.cursor for event in page.events)
                self._took(page, version if len(page.events) < PAGE else -1)
            looked = self._looked
            assert looked is not None
            first = bisect_right(self._cursors, after)
            events = self._events[first : first + PAGE]
            self._trim()
            return looked.with_events(events)

    def _read(self, store: Store, after: Cursor) -> Page | None:
        """Read the log; once that failed, it is not tried again by each follower in turn."""
        if self._monotonic() - self._failed_at < BROKEN_TICK:
            raise StoreUnavailable("The store is unavailable. Try again in a moment.")
        try:
            return store.events(self.ref, after, PAGE)
        except StoreUnavailable:
            self._failed_at = self._monotonic()
            raise

    @property
    def _last(self) -> Cursor:
        return self._cursors[-1] if self._cursors else self._since

    def _covers(self, after: Cursor) -> bool:
        return self._since <= after <= self._last

    def _trim(self) -> None:
        if len(self._events) > 2 * KEPT:
            for cursor in self._cursors[:-KEPT]:
                self._frames.pop(cursor, None)
            self._since = self._cursors[-KEPT - 1]
            self._events, self._cursors = self._events[-KEPT:], self._cursors[-KEPT:]

    def frame(self, event: Event, encode: Callable[[Event], bytes]) -> bytes:
        """The encoded event; followers of the same stretch share one encoding."""
        frame = self._frames.get(event.cursor)
        if frame is None:
            frame = encode(event)
            if self._since < event.cursor:
                self._frames[event.cursor] = frame
        return frame


class Hub:
    """The followed tasks of one app in one process, and who else waits for wake-ups."""

    def __init__(self, store: Store, max_followers: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.store = store
        self.max_followers = max_followers
        self.followers = 0
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}
        self._callbacks: dict[str, Callable[[], None]] = {}
        self._wakeups: Wakeups | None = None
        self._closed = False
        self._abandoned: deque[Channel] = deque()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def tick(self) -> float:
        """How long to wait for a wake-up before looking anyway (s)."""
        wakeups = self._wakeups
        return TICK if wakeups is not None and wakeups.healthy else BROKEN_TICK

    def enter(self, ref: TaskRef) -> Channel | None:
        """Take a follower's place; None when all are taken or the hub is closed. Give it back with leave."""
        name = self.store.channel(ref)
        while self._abandoned:
            self.leave(self._abandoned.popleft())
        with self._lock:
            if self.followers >= self.max_followers or self._closed:
                return None
            self.followers += 1
            channel = self._channels.get(name)
            new = channel is None
            if channel is None:
                channel = self._channels[name] = Channel(ref, name, self._lock, self._monotonic)
            channel.followers += 1
        if new:
            self._listen().watch(name)
        return channel

    def leave(self, channel: Channel) -> None:
        """Give a follower's place back."""
        with self._lock:
            self.followers -= 1
            channel.followers -= 1
            last = channel.followers == 0
            if last:
                del self._channels[channel.name]
        if last:
            wakeups = self._listen()
            wakeups.forget(channel.name)
            with self._lock:
                taken_again = channel.name in self._channels
            if taken_again:  # somebody came while it was being forgotten
                wakeups.watch(channel.name)

    def abandon(self, channel: Channel) -> None:
        """Give a place back from where no lock may be taken: the garbage collector. It is free at the next enter."""
        self._abandoned.append(channel)

    def wait(self, channel: Channel, version: int, timeout: float) -> None:
        """Wait until something may have happened since `version`, at most `timeout` s."""
        with self._lock:
            if channel.version == version and not self._closed and timeout > 0:
                channel.woken.wait(timeout)

    def listen(self, name: str, callback: Callable[[], None]) -> None:
        """Call back, from any thread, when something was announced on a channel, or may have been."""
        with self._lock:
            self._callbacks[name] = callback
        self._listen().watch(name)

    def ignore(self, name: str) -> None:
        """End a listen."""
        with self._lock:
            known = self._callbacks.pop(name, None)
        if known is not None:
            self._listen().forget(name)

    def close(self) -> None:
        """End every follower cleanly: each closes its stream, and its client goes on elsewhere."""
        with self._lock:
            self._closed = True
            for channel in self._channels.values():
                channel.woken.notify_all()
            wakeups = self._wakeups
        if wakeups is not None:
            wakeups.close()

    def _listen(self) -> Wakeups:
        with self._lock:
            if self._wakeups is None:
                self._wakeups = self.store.wakeups(self._on_wakeup)
            return self._wakeups

    def _on_wakeup(self, name: str, hint: bytes | None) -> None:
        with self._lock:
            channels = list(self._channels.values())
            callbacks = list(self._callbacks.values())
            if name:
                channels = [self._channels[name]] if name in self._channels else []
                callbacks = [self._callbacks[name]] if name in self._callbacks else []
            for channel in channels:
                channel.wake(hint)
        for callback in callbacks:
            callback()
