"""The hub: follows tasks for every client of this process, with one wake-up connection and shared reads.

What is delivered is always read from the log after the follower's own cursor. A wake-up only says when to look, so a
lost one costs a tick, never an event, and it does not matter whether one subscribes before or after reading.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable
from typing import TypeVar, cast

from ..errors import StoreUnavailable
from ..models import ORIGIN, Cursor, Event
from ..stores import bounds
from ..stores.base import STANDS, Page, Store, TaskRef, Wakeups
from .shedding import Shedding

PAGE = bounds.STEP
KEPT = 1000
TICK = 5.0
BROKEN_TICK = 0.5
FRESH = 0.45
HINTS = 64

Encode = Callable[[Event], bytes]
SignalT = TypeVar("SignalT", bound="Signal")


class Signal:
    """A channel that somebody here follows; `version` rises with each wake-up."""

    def __init__(self, name: str, lock: threading.Lock) -> None:
        self.name = name
        self.followers = 0
        self.version = 0
        self.woken = threading.Condition(lock)

    def wake(self, hint: bytes | None) -> None:
        """Something may have happened; the hub's lock is held."""
        self.version += 1
        self.woken.notify_all()


class Channel(Signal):
    """One followed task and what its followers share: a stretch of its log, the frames made of it, the last look.

    A look at `version` or later need not be repeated.
    """

    def __init__(self, ref: TaskRef, name: str, lock: threading.Lock, monotonic: Callable[[], float]) -> None:
        super().__init__(name, lock)
        self.ref = ref
        self.reading = threading.Lock()
        self._looked: Page | None = None
        self._looked_version = -1
        self._looked_at = 0.0
        self._may_expire = True
        self._failed_at = float("-inf")
        self._monotonic = monotonic
        self._hints: deque[tuple[int, bytes]] = deque()
        self._since = ORIGIN
        self._events: list[Event] = []
        self._cursors: list[Cursor] = []
        self._frames: dict[Encode, dict[Cursor, bytes]] = {}

    def wake(self, hint: bytes | None) -> None:
        super().wake(hint)
        if hint is None or len(self._hints) == HINTS:
            self._hints.clear()
        if hint is not None:
            self._hints.append((self.version, hint))

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
            # Whoever appends an event renews the lease; that is longer than a look is fresh.
            self._took(page, version, renewed=bool(page.events) and store.limits.lease > FRESH * 1000)

    def _took(self, page: Page, version: int, *, renewed: bool = False) -> None:
        """Keep a look; where the lease was `renewed` with it, nobody needs to read the task to know that it lives."""
        self._looked, self._looked_version, self._looked_at = page, version, self._monotonic()
        self._may_expire = not renewed

    def _is_fresh(self, version: int) -> bool:
        """Whether the last look need not be repeated: nothing happened since, it is not old, and no lease ran out."""
        looked = self._looked
        if looked is None or self._looked_version < version:
            return False
        age = self._monotonic() - self._looked_at
        return age < FRESH and not (self._may_expire and looked.expired_within(age * 1000))

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
            for frames in self._frames.values():
                for cursor in self._cursors[:-KEPT]:
                    frames.pop(cursor, None)
            self._since = self._cursors[-KEPT - 1]
            self._events, self._cursors = self._events[-KEPT:], self._cursors[-KEPT:]

    def frame(self, event: Event, encode: Encode) -> bytes:
        """The encoded event; followers of the same stretch on the same wire share one encoding."""
        frames = self._frames.setdefault(encode, {})
        frame = frames.get(event.cursor)
        if frame is None:
            frame = encode(event)
            if self._since < event.cursor:
                frames[event.cursor] = frame
        return frame


class Hub:
    """The followed tasks of one app in one process, and who else waits for wake-ups."""

    def __init__(self, store: Store, max_followers: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.store = store
        self.max_followers = max_followers
        self.followers = 0
        self._lock = threading.Lock()
        self._channels: dict[str, Signal] = {}
        self._callbacks: dict[str, Callable[[], None]] = {}
        self._listens: Counter[str] = Counter()
        self._wakeups: Wakeups | None = None
        self._closed = False
        self._abandoned: deque[Channel] = deque()
        self.shedding = Shedding(monotonic)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def tick(self) -> float:
        """How long to wait for a wake-up before looking anyway (s)."""
        wakeups = self._wakeups
        return TICK if wakeups is not None and wakeups.healthy else BROKEN_TICK

    def take_place(self) -> bool:
        """Take a follower's place; False when all are taken or the hub is closed."""
        while self._abandoned:
            self.leave(self._abandoned.popleft())
        with self._lock:
            if self.followers >= self.max_followers or self._closed:
                return False
            self.followers += 1
            return True

    def give_place_back(self) -> None:
        with self._lock:
            self.followers -= 1

    def enter(self, ref: TaskRef) -> Channel | None:
        """Take a follower's place at a task; None when there is none. Give it back with leave."""
        return self.follow(ref) if self.take_place() else None

    def leave(self, channel: Channel) -> None:
        """Give a follower's place back."""
        self.give_place_back()
        self.release(channel)

    def follow(self, ref: TaskRef) -> Channel:
        """Follow a task, by one who has a place; end it with release."""
        name = self.store.channel(ref)
        return self._join(name, lambda: Channel(ref, name, self._lock, self._monotonic))

    def attend(self, name: str) -> Signal:
        """Follow a channel that is no task's, by one who has a place; end it with release."""
        return self._join(name, lambda: Signal(name, self._lock))

    def _join(self, name: str, make: Callable[[], SignalT]) -> SignalT:
        with self._lock:
            signal = self._channels.get(name)
            new = signal is None
            if signal is None:
                signal = self._channels[name] = make()
            signal.followers += 1
        if new:
            self._listen().watch(name)
        return cast(SignalT, signal)

    def release(self, signal: Signal) -> None:
        """Follow a channel no longer."""
        with self._lock:
            signal.followers -= 1
            last = signal.followers == 0
            if last:
                del self._channels[signal.name]
        if last:
            wakeups = self._listen()
            wakeups.forget(signal.name)
            with self._lock:
                taken_again = signal.name in self._channels
            if taken_again:  # somebody came while it was being forgotten
                wakeups.watch(signal.name)

    def abandon(self, channel: Channel) -> None:
        """Give a place back from where no lock may be taken: the garbage collector. It is free at the next enter."""
        self._abandoned.append(channel)

    def wait(self, signal: Signal, version: int, timeout: float) -> None:
        """Wait until something may have happened since `version`, at most `timeout` s."""
        with self._lock:
            if signal.version == version and not self._closed and timeout > 0:
                signal.woken.wait(timeout)

    def rouse(self, signal: Signal) -> None:
        """Let those who wait look again: something happened here."""
        with self._lock:
            signal.wake(None)

    def listen(self, name: str, callback: Callable[[], None]) -> None:
        """Call back, from any thread, when something was announced on a channel, or may have been after a break."""
        with self._lock:
            self._callbacks[name] = callback
            self._listens[name] += 1
        self._listen().watch(name)

    def ignore(self, name: str) -> None:
        """End a listen. A newer attempt of the same task may go on listening here."""
        with self._lock:
            self._listens[name] -= 1
            if self._listens[name] > 0:
                return
            del self._listens[name]
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
                callbacks = [self._callbacks[name]] if name in self._callbacks and hint != STANDS else []
            for channel in channels:
                channel.wake(hint)
        for callback in callbacks:
            callback()
