"""What one client gets of a session for as long as it lives: attempt after attempt of its tasks, as they began.

They go in the order of their epochs, and each whole, so that cursors only rise and the last one resumes it all, also
where tasks run side by side or are tried again. A lost task that returns goes on, unless a later one has begun here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from enum import Enum

from ..errors import NotFound, StoreUnavailable
from ..models import ORIGIN, Cursor, Task, TaskState
from ..stores.base import TaskRef
from .follower import SESSION_DELETED, Permission, Step, TaskFrames
from .frames import Wire, end_data
from .hub import Hub, Signal

MORE_TASKS = 8


class Outcome(str, Enum):
    """Why the frames of a session end."""

    OVER = "over"
    CLOSING = "closing"
    REFUSED = "refused"
    STOPPED = "stopped"


class SessionFrames:
    """The frames of a session after a cursor, by one who has a follower's place, until the session is over.

    Between tasks it waits for the next one: begin announces it; one whose announcement was lost is found at the next
    tick. `gone` is as for TaskFrames, `outcome` says why the frames ended.
    """

    def __init__(
        self,
        hub: Hub,
        conversation_id: str,
        session_id: str,
        after: Cursor,
        wire: Wire,
        *,
        allowed: Callable[[], bool] = lambda: True,
        gone: Cursor | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.outcome: Outcome | None = None
        self._hub = hub
        self._conversation_id = conversation_id
        self._session_id = session_id
        self._position = after
        self._wire = wire
        self._gone = gone
        self._monotonic = monotonic
        self._permission = Permission(allowed, monotonic)
        self._signal: Signal | None = None
        self._task: TaskFrames | None = None
        self._stopped = False
        self._ended_at = ORIGIN
        self._is_lost = False
        self._end_was_told = False

    def stop(self) -> None:
        """Break off, from another thread."""
        self._stopped = True
        task, signal = self._task, self._signal
        if task is not None:
            task.stop()
        if signal is not None:
            self._hub.rouse(signal)

    def __iter__(self) -> Iterator[bytes]:
        self._signal = signal = self._hub.attend(
            self._hub.store.session_channel(self._conversation_id, self._session_id)
        )
        try:
            while (outcome := self._broken_off()) is None:
                version = signal.version
                try:
                    attempt = self._next()
                except NotFound:
                    outcome = Outcome.OVER
                    break
                if attempt is not None:
                    yield from self._follow(*attempt)
                if attempt is None or self._is_lost:
                    self._hub.wait(signal, version, self._hub.tick)
            self.outcome = outcome
            if outcome is Outcome.OVER and not self._end_was_told:
                yield self._wire.end(self._position, end_data(None, TaskState.CANCELLED, *SESSION_DELETED))
        finally:
            self._hub.release(signal)

    def _broken_off(self) -> Outcome | None:
        if self._stopped:
            return Outcome.STOPPED
        if self._hub.closed:
            return Outcome.CLOSING
        return None if self._permission else Outcome.REFUSED

    def _next(self) -> tuple[Task, int] | None:
        """The earliest attempt of which something is still to come: its task and its epoch.

        None while there is none, or the store cannot say. Raises NotFound once the session is no longer there.
        """
        try:
            attempts = [(self._epoch_after(task), task) for task in self._unfinished()]
        except StoreUnavailable:
            return None
        except NotFound:
            if self._hub.store.recovering:
                return None
            raise
        epoch, task = min(attempts, key=lambda attempt: attempt[0], default=(0, None))
        return (task, epoch) if task is not None else None

    def _unfinished(self) -> list[Task]:
        """The tasks with something after the position; most often a look at the latest two is enough."""
        limit = 2
        while True:
            tasks = self._hub.store.tasks(self._session_id, limit)
            if tasks is None:
                raise NotFound("The session is no longer there.", sessionId=self._session_id)
            if len(tasks) < limit or tasks[-1].epoch < self._position.epoch:
                return [task for task in tasks if self._is_of_it(task) and self._has_more(task)]
            limit *= MORE_TASKS

    def _is_of_it(self, task: Task) -> bool:
        """Another program's id may be a new one's meanwhile, in another conversation."""
        return task.conversation_id == self._conversation_id

    def _has_more(self, task: Task) -> bool:
        if task.state.live:
            return task.epoch >= self._position.epoch
        return Cursor(task.epoch, task.tail) > max(self._position, self._ended_at)

    def _epoch_after(self, task: Task) -> int:
        """The epoch of a task's next event: of one that was tried again, earlier attempts may be still to come."""
        if task.attempt > 1:
            page = self._hub.store.events(self._ref(task), self._position, 1)
            if page is not None and page.events:
                return page.events[0].cursor.epoch
        return task.epoch

    def _ref(self, task: Task) -> TaskRef:
        return TaskRef(self._conversation_id, self._session_id, task.task_id)

    def _follow(self, task: Task, epoch: int) -> Generator[bytes, None, None]:
        """The frames of one attempt; the position is behind it afterwards, unless they were broken off."""
        channel = self._hub.follow(self._ref(task))
        self._task = frames = TaskFrames(
            self._hub,
            channel,
            self._position,
            self._wire,
            self._permission,
            gone=self._gone,
            epoch=None if task.foreign else epoch,
            monotonic=self._monotonic,
        )
        try:
            if not self._stopped:
                yield from frames
        finally:
            self._task = None
            self._hub.release(channel)
        if frames.last is not None:
            self._gone = None
            self._position = max(frames.position, Cursor(epoch, 0))
            self._ended(frames.last)

    def _ended(self, last: Step) -> None:
        """Take note of how an attempt ended: what a lost task's log does not hold may still come with its return."""
        self._end_was_told = last.page is None
        self._is_lost = False
        if last.page is not None and not last.superseded:
            task = last.page.task
            self._ended_at = Cursor(task.epoch, task.tail)
            self._is_lost = task.state is TaskState.LOST
