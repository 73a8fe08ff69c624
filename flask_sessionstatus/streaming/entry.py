"""An entry of the outbox: one task's events, from the oldest that is held to the newest, and what goes next.

It keeps them until the task has ended and a lease more, so that a store that lost them gets them again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..models import utf8_size
from ..stores.base import Append, Change, End, SessionDraft, TaskDraft, TaskRef, Verdict
from .rest import Rest

BATCH_EVENTS = 500
BATCH_BYTES = 262_144
KEPT_BYTES = 8_388_608
FULL_WAIT = 30.0


@dataclass(frozen=True)
class Bounds:
    """How much of one task the outbox holds; `wait` (s) is how long a full one blocks the producer before it raises."""

    events: int = 10_000
    bytes: int = KEPT_BYTES
    wait: float = FULL_WAIT


class Entry:
    """One task in the outbox: its events from `floor` on, what the store has of them, what the run says of itself.

    One that is `watched` is worked on by another process.
    """

    def __init__(self, session: SessionDraft, task: TaskDraft, epoch: int, tail: int) -> None:
        self.session = session
        self.task = task
        self.ref = TaskRef(session.conversation_id, session.session_id, task.task_id)
        self.epoch = epoch
        self.events: deque[tuple[str, str, int]] = deque()
        self.bytes = 0
        self.floor = tail
        self.stored = tail
        self.change: Change | None = None
        self.latest = Change()
        self.ends_at: float | None = None
        self.changed_at = 0.0
        self.waiters = 0
        self.failures = 0
        self.retry_at = 0.0
        self.end: End | None = None
        self.end_stored = False
        self.ended_at: float | None = None
        self.stopped: Verdict | None = None
        self.cancel_requested_at: int | None = None
        self.answered_at = time.monotonic()
        self.on_cancel: Callable[[], None] | None = None
        self.duration: int | None = None
        self.watched = False

    @property
    def number(self) -> int:
        """The number of the last event that was emitted."""
        return self.floor + len(self.events)

    @property
    def settled(self) -> bool:
        """Nothing is left to be stored."""
        if self.stopped is not None:
            return True
        return self.stored >= self.number and self.change is None and (self.end is None or self.end_stored)

    @property
    def urgent(self) -> bool:
        """Whether there is more to be stored than progress, or somebody waits."""
        if self.waiters or self.stored < self.number or (self.end is not None and not self.end_stored):
            return True
        return self.change is not None and (self.change.running or self.change.ticket is not None)

    def add(self, type: str, json: str, size: int) -> int:
        """Keep an event whose JSON has `size` bytes of UTF-8; returns its number."""
        size += len(type)
        self.events.append((type, json, size))
        self.bytes += size
        return self.number

    def trim(self, bounds: Bounds) -> None:
        """Drop the oldest events, stored ones only, down to the bounds."""
        while self.floor < self.stored and (len(self.events) > bounds.events or self.bytes > bounds.bytes):
            self.bytes -= self.events.popleft()[2]
            self.floor += 1

    def is_full(self, bounds: Bounds) -> bool:
        return len(self.events) >= bounds.events or self.bytes >= bounds.bytes

    def rest(self) -> Rest:
        """What another process needs to go on with it."""
        events = [(type, json) for type, json, _ in self.events]
        return Rest(self.floor, self.stored, events, self.change, self.end, self.duration)

    def take_over(self, rest: Rest) -> None:
        """Go on with what another process left."""
        self.floor, self.stored = rest.floor, rest.stored
        self.events.clear()
        self.bytes = 0
        for type, json in rest.events:
            self.add(type, json, utf8_size(json))
        self.change, self.end, self.duration = rest.change, rest.end, rest.duration
        self.watched = False

    def batch(self, now: float) -> Append:
        """What goes next: events after the stored ones, the change, and the end once it is their turn."""
        if self.change is not None and self.ends_at is not None:
            # A store counts the rest from when it hears of it, which may be long after it was told here.
            self.change = replace(self.change, remaining=max(0, round((self.ends_at - now) * 1000)))
        start = self.stored - self.floor
        events: list[tuple[str, str]] = []
        total = 0
        for i in range(start, len(self.events)):
            type, json, size = self.events[i]
            total += size
            if events and (total > BATCH_BYTES or len(events) == BATCH_EVENTS):
                break
            events.append((type, json))
        complete = start + len(events) == len(self.events)
        return Append(
            self.ref,
            self.task.attempt,
            self.epoch,
            self.stored,
            self.floor,
            events,
            self.change,
            self.end if complete else None,
        )
