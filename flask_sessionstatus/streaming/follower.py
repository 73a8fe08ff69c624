"""One client's way through a task's stream, as a stream of frames or as a JSON page."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from ..errors import NotFound, StoreUnavailable
from ..models import ORIGIN, Cursor, Event, Task, TaskState
from ..stores.base import Page
from .frames import Wire, end_data
from .hub import BROKEN_TICK, Channel, Hub

PING = 15.0
STATUS_INTERVAL = 0.25
ACCESS_INTERVAL = 30.0
SESSION_DELETED = ("SessionDeleted", "The session is no longer there.")


@dataclass(frozen=True)
class Gap:
    """Events are missing between what was asked for and what comes next."""

    requested: Cursor
    first: Cursor


@dataclass(frozen=True)
class Ended:
    """Nothing follows. `cursor` is the end's own, or the last event's where there is no end (yet)."""

    cursor: Cursor
    json: str


Item = Event | Gap | Ended


@dataclass(frozen=True)
class Step:
    """What one look brought: items in order, and the page that they are from; none once the task is gone.

    `superseded`: a later attempt has begun than the one that was to be read.
    """

    items: Sequence[Item]
    page: Page | None = None
    superseded: bool = False

    @property
    def ended(self) -> bool:
        return self.superseded or (bool(self.items) and isinstance(self.items[-1], Ended))


class Reader:
    """Goes through a task's log in order, exactly once, and says where something is missing.

    With `epoch` it reads up to the end of that attempt; without, of the task.
    """

    def __init__(
        self, hub: Hub, channel: Channel, after: Cursor, monotonic: Callable[[], float], epoch: int | None = None
    ) -> None:
        self.position = after
        self._epoch = epoch
        self._superseded = False
        self._hub = hub
        self._channel = channel
        self._monotonic = monotonic
        self._ahead_since: float | None = None
        self._missing_since: float | None = None
        self._away = False

    @property
    def tick(self) -> float:
        """How long to wait for a wake-up before looking anyway (s). None may come where the last look failed."""
        return min(self._hub.tick, BROKEN_TICK) if self._away else self._hub.tick

    def step(self, version: int) -> Step | None:
        """What comes next; None while the store is away or may still be healed."""
        self._away = False
        try:
            page = self._channel.look(self._hub.store, self.position, version)
        except StoreUnavailable:
            self._away = True
            return None
        except NotFound:
            return self._gone()
        if page is None:
            return None if self._may_come_back() else self._gone()
        self._missing_since = None
        return Step(self._items(page), page, self._superseded)

    def _may_come_back(self) -> bool:
        """What is missing may have been lost: for one lease its outbox may make it again."""
        now = self._monotonic()
        if self._missing_since is None:
            self._missing_since = now
        return now - self._missing_since < self._hub.store.limits.lease / 1000 or self._hub.store.recovering

    def _gone(self) -> Step:
        data = end_data(self._channel.ref.task_id, TaskState.CANCELLED, *SESSION_DELETED)
        return Step([Ended(self.position, data)])

    def _items(self, page: Page) -> list[Item]:
        if page.events:
            self._ahead_since = None
            return self._read(page)
        task = page.task
        tail = Cursor(task.epoch, task.tail)
        if self.position > tail and task.state is not TaskState.LOST:
            return self._wait_for_refill(page)
        if task.state is TaskState.LOST:
            return [Ended(min(self.position, task.cursor), end_data(task.task_id, task.state))]
        if task.state.terminal and self.position < tail:
            # The end is in the record, but the log has lost it.
            end = Ended(tail, end_data(task.task_id, task.state, task.error_type, task.error_message))
            return [Gap(self.position, tail), end]
        if task.state.terminal:
            return [Ended(tail, end_data(task.task_id, task.state, task.error_type, task.error_message))]
        return []

    def _read(self, page: Page) -> list[Item]:
        items: list[Item] = []
        for event in page.events:
            if self._epoch is not None and event.cursor.epoch > self._epoch:
                self._superseded = True
                break
            follows = event.follows if event.follows is not None else _follows(self.position, event.cursor)
            if not follows:
                items.append(Gap(self.position, event.cursor))
            self.position = event.cursor
            if event.type != "end":
                items.append(event)
            elif _ends(event.cursor, page.task):
                items.append(Ended(event.cursor, event.json))
                break
            # The end of an earlier attempt ends nothing any more; the `attempt` event that follows says what it has to.
        return items

    def _wait_for_refill(self, page: Page) -> list[Item]:
        """A cursor past the tail waits for one lease: the store may be refilled. Past an end it is of nothing here."""
        now = self._monotonic()
        if self._ahead_since is None:
            self._ahead_since = now
        if not page.task.state.terminal and now - self._ahead_since < self._hub.store.limits.lease / 1000:
            return []
        gap = Gap(self.position, page.first or ORIGIN)
        self.position, self._ahead_since = ORIGIN, None
        return [gap]


def _ends(cursor: Cursor, task: Task) -> bool:
    """Whether an `end` is that of the task, and not of an earlier attempt."""
    return cursor >= task.cursor if task.foreign else cursor.epoch >= task.epoch


def _follows(before: Cursor, cursor: Cursor) -> bool:
    """Whether nothing is missing between two cursors that were read one after the other."""
    return cursor.number == (before.number + 1 if cursor.epoch == before.epoch else 1)


class Permission:
    """Whether the client may still see what it follows: asked now and then, in between it is what it was."""

    def __init__(self, ask: Callable[[], bool], monotonic: Callable[[], float]) -> None:
        self._ask = ask
        self._monotonic = monotonic
        self._asked_at = monotonic()
        self._given = True

    def __bool__(self) -> bool:
        now = self._monotonic()
        if now - self._asked_at >= ACCESS_INTERVAL:
            self._asked_at = now
            self._given = self._ask()
        return self._given


class TaskFrames:
    """The frames of a task after a cursor, until its end; with `epoch`, until the end of that attempt.

    `gone` is a cursor of something that is not here any more: the frames then begin with a gap. `last` is the step
    that ended them; None when they were broken off.
    """

    def __init__(
        self,
        hub: Hub,
        channel: Channel,
        after: Cursor,
        wire: Wire,
        permission: Permission,
        *,
        gone: Cursor | None = None,
        epoch: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.last: Step | None = None
        self._hub = hub
        self._channel = channel
        self._wire = wire
        self._permission = permission
        self._gone = gone
        self._monotonic = monotonic
        self._reader = Reader(hub, channel, after, monotonic, epoch)
        self._shown: tuple[object, ...] | None = None
        self._compared_at = float("-inf")
        self._stopped = False

    @property
    def position(self) -> Cursor:
        """The last event that was given."""
        return self._reader.position

    def stop(self) -> None:
        """Break off, from another thread."""
        self._stopped = True
        self._hub.rouse(self._channel)

    def __iter__(self) -> Generator[bytes, None, None]:
        yield self._wire.opening()
        wrote = self._monotonic()
        while not self._hub.closed and not self._stopped and self._permission:
            version = self._channel.version
            if self._stopped:
                break
            step = self._reader.step(version)
            frames = self._encode(step) if step is not None else b""
            now = self._monotonic()
            if not frames and now - wrote >= PING:
                frames, wrote = self._wire.ping(), now
            if frames:
                wrote = now
                yield frames
            if step is not None and step.ended:
                self.last = step
                return
            if step is None or not step.items:
                self._hub.wait(self._channel, version, self._patience(step, wrote + PING - now, now))
        yield self._wire.closing(self._hub.shedding.later) if self._hub.closed else self._wire.closing()

    def _encode(self, step: Step) -> bytes:
        frames: list[bytes] = []
        if self._gone is not None and step.page is not None:
            first = next((item.cursor for item in step.items if isinstance(item, Event)), ORIGIN)
            frames.append(self._wire.gap(self._gone, first))
            self._gone = None
        for item in step.items:
            if isinstance(item, Event):
                frames.append(self._channel.frame(item, self._wire.event))
            elif isinstance(item, Gap):
                frames.append(self._wire.gap(item.requested, item.first))
            else:
                frames.append(self._wire.end(item.cursor, item.json))
        if step.page is not None and not step.ended:
            frames.append(self._status(step.page))
        return b"".join(frames)

    def _status(self, page: Page) -> bytes:
        """A status frame when progress or state changed, at most 4 a second."""
        now = self._monotonic()
        if now - self._compared_at < STATUS_INTERVAL:
            return b""
        self._compared_at = now
        if _shown(page.task) == self._shown:
            return b""
        self._shown = _shown(page.task)
        return self._wire.status(page.task)

    def _patience(self, step: Step | None, until_ping: float, now: float) -> float:
        """How long to wait for a wake-up (s): until the next ping, tick, status, or the deadline of the task's
        lease."""
        waits = [max(0.0, until_ping), self._reader.tick]
        if step is not None and step.page is not None:
            task = step.page.task
            if task.deadline is not None:
                lease = min(task.deadline - step.page.now, self._hub.store.limits.lease)
                if lease > 0:  # else it is live by grace: the writers may not have renewed it after an outage
                    waits.append(max(0.01, lease / 1000))
            if _shown(task) != self._shown:
                waits.append(max(0.0, self._compared_at + STATUS_INTERVAL - now))
        return min(waits)


class Follower:
    """One client's frames of a task: an iterator that holds a follower's place. Closing it gives the place back.

    `allowed` is asked now and then whether the client may still see this; `gone`: see TaskFrames.
    """

    def __init__(
        self,
        hub: Hub,
        channel: Channel,
        after: Cursor,
        wire: Wire,
        *,
        allowed: Callable[[], bool] = lambda: True,
        gone: Cursor | None = None,
    ) -> None:
        self._hub = hub
        self._channel = channel
        self._left = False
        permission = Permission(allowed, time.monotonic)
        self._task = TaskFrames(hub, channel, after, wire, permission, gone=gone)
        self._frames = iter(self._task)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._frames)

    def stop(self) -> None:
        """End the stream, from another thread than the one that iterates."""
        self._task.stop()

    def close(self) -> None:
        """Give the follower's place back; the iterator is done."""
        if not self._left:
            self._left = True
            try:
                self._frames.close()
            finally:
                self._hub.leave(self._channel)

    def __del__(self) -> None:
        if not self._left:
            self._hub.abandon(self._channel)


def _shown(task: Task) -> tuple[object, ...]:
    """What a status frame shows of a task."""
    return task.state, task.attempt, task.progress


def json_page(
    hub: Hub, channel: Channel, after: Cursor, wait: float, monotonic: Callable[[], float] = time.monotonic
) -> tuple[Sequence[Item], Cursor, bool] | None:
    """The next items after a cursor, waiting for them up to `wait` s; with the cursor to go on from and whether that
    is all.

    None while the store cannot be asked.
    """
    reader = Reader(hub, channel, after, monotonic)
    until = monotonic() + wait
    while True:
        version = channel.version
        step = reader.step(version)
        left = until - monotonic()
        if step is None and left <= 0:
            return None
        if step is not None and (step.items or left <= 0 or hub.closed):
            return step.items, reader.position, step.ended
        hub.wait(channel, version, min(left, reader.tick))
