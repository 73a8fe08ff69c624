"""The outbox: the work hands over its events and goes on; a flusher stores them, in order, as often as it takes.

An entry keeps a task's events until the task has ended and a lease more, so that a store that lost them gets them
again. Batching adds no delay: what arrives while a call is under way goes with the next one.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from ..errors import Cancelled, InvalidValue, OutboxFull, SessionStatusError, StoreUnavailable
from ..stores.base import Answer, Append, Beat, Change, End, SessionDraft, Store, TaskDraft, TaskRef, Verdict

log = logging.getLogger("flask_sessionstatus")

BATCH_EVENTS = 500
BATCH_BYTES = 262_144
BATCH_TASKS = 128
KEPT_BYTES = 8_388_608
FULL_WAIT = 30.0
CHANGE_INTERVAL = 0.25
# Well below two heartbeats: for so long after an outage the unknown is not called unknown.
MAX_BACKOFF = 0.3


@dataclass(frozen=True)
class Bounds:
    """How much of one task the outbox holds; `wait` (s) is how long a full one blocks the producer before it raises."""

    events: int = 10_000
    bytes: int = KEPT_BYTES
    wait: float = FULL_WAIT


class Entry:
    """One task in the outbox: its events from `floor` on, what the store has of them, what the run says of itself."""

    def __init__(self, session: SessionDraft, task: TaskDraft, epoch: int, tail: int) -> None:
        self.session = session
        self.task = task
        self.ref = TaskRef(session.conversation_id, session.session_id, task.task_id)
        self.epoch = epoch
        self.events: deque[tuple[str, str]] = deque()
        self.bytes = 0
        self.floor = tail
        self.stored = tail
        self.change: Change | None = None
        self.latest = Change()
        self.changed_at = 0.0
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

    def add(self, type: str, json: str) -> int:
        self.events.append((type, json))
        self.bytes += len(type) + len(json)
        return self.number

    def trim(self, bounds: Bounds) -> None:
        """Drop the oldest events, stored ones only, down to the bounds."""
        while self.floor < self.stored and (len(self.events) > bounds.events or self.bytes > bounds.bytes):
            type, json = self.events.popleft()
            self.bytes -= len(type) + len(json)
            self.floor += 1

    def is_full(self, bounds: Bounds) -> bool:
        return len(self.events) >= bounds.events or self.bytes >= bounds.bytes

    def batch(self) -> Append:
        """What goes next: events after the stored ones, the change, and the end once it is their turn."""
        start = self.stored - self.floor
        events: list[tuple[str, str]] = []
        size = 0
        for i in range(start, len(self.events)):
            type, json = self.events[i]
            size += len(type) + len(json)
            if events and (size > BATCH_BYTES or len(events) == BATCH_EVENTS):
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


class Outbox:
    """All tasks that run, wait or linger in this process, and the thread that stores what they say."""

    def __init__(
        self,
        store: Store,
        bounds: Bounds = Bounds(),
        *,
        monotonic: Callable[[], float] = time.monotonic,
        on_stored_end: Callable[[Entry], None] | None = None,
    ) -> None:
        self._store = store
        self._bounds = bounds
        self._monotonic = monotonic
        self._on_stored_end = on_stored_end
        self._entries: dict[str, Entry] = {}
        self._dirty: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._bell = Bell()
        self._progress = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._closing = False
        self._reachable = True

    # What a run does

    def open(self, session: SessionDraft, task: TaskDraft, epoch: int, tail: int) -> Entry:
        """Take up a task that has begun."""
        entry = Entry(session, task, epoch, tail)
        with self._lock:
            self._entries[task.task_id] = entry
            self._ensure_thread()
        return entry

    def emit(self, entry: Entry, type: str, json: str) -> int:
        """Hand over an event; returns its number. Waits only while the outbox is full. Raises Cancelled and
        OutboxFull."""
        with self._lock:
            if entry.stopped is not None or entry.end is not None:
                self._refuse(entry)
            if entry.is_full(self._bounds):
                self._wait_for_room(entry)
            number = entry.add(type, json)
            self._touch(entry)
            return number

    def _refuse(self, entry: Entry) -> None:
        if entry.end is not None and entry.cancel_requested_at is None:
            raise InvalidValue("The task has ended.", taskId=entry.ref.task_id)
        raise Cancelled("The task was stopped.", taskId=entry.ref.task_id)

    def _wait_for_room(self, entry: Entry) -> None:
        until = self._monotonic() + self._bounds.wait
        while True:
            entry.trim(Bounds(self._bounds.events - 1, self._bounds.bytes - 1))
            if not entry.is_full(self._bounds):
                return
            left = until - self._monotonic()
            if left <= 0:
                raise OutboxFull(
                    f"The store has been away for {self._bounds.wait:g} s and {len(entry.events)} events wait for it.",
                    taskId=entry.ref.task_id,
                )
            self._progress.wait(left)
            if entry.stopped is not None or entry.end is not None:
                self._refuse(entry)

    def change(self, entry: Entry, change: Change) -> None:
        """Hand over progress or a new state; a later one replaces what has not been sent."""
        with self._lock:
            if entry.stopped is not None or entry.end is not None:
                return
            entry.change = _merged(entry.change, change)
            entry.latest = _merged(entry.latest, change)
            self._touch(entry)

    def end(self, entry: Entry, end: End, event: str) -> None:
        """Hand over the end, behind everything emitted. Does nothing for a task that has one."""
        with self._lock:
            if entry.stopped is not None or entry.end is not None:
                return
            entry.add("end", event)
            entry.end = end
            self._touch(entry)

    def flush(self, entry: Entry, timeout: float | None = None) -> bool:
        """Wait until all that was handed over is stored; False when the time (s) ran out first."""
        until = None if timeout is None else self._monotonic() + timeout
        with self._lock:
            while not entry.settled:
                left = None if until is None else until - self._monotonic()
                if left is not None and left <= 0:
                    return False
                self._progress.wait(left)
            return True

    def wait_while_reachable(self, entry: Entry, timeout: float) -> bool:
        """As flush, but returns at once when the store cannot be reached."""
        until = self._monotonic() + timeout
        with self._lock:
            while not entry.settled:
                left = until - self._monotonic()
                if left <= 0 or not self._reachable:
                    return False
                self._progress.wait(min(left, 0.5))
            return True

    # What the beat thread does

    def beats(self) -> Sequence[Beat]:
        """One beat for each task that is held here."""
        with self._lock:
            return [
                Beat(entry.ref, entry.task.attempt, entry.epoch)
                for entry in self._entries.values()
                if entry.stopped is None
            ]

    def answered(self, task_id: str, answer: Answer) -> None:
        """Take up what the store said to a beat."""
        with self._lock:
            entry = self._entries.get(task_id)
            if entry is None or entry.stopped is not None:
                return
            if answer.verdict is Verdict.STORED and answer.number < entry.stored:
                answer = replace(answer, verdict=Verdict.NEED)
            elif answer.verdict is Verdict.STORED:
                # The beat says nothing of what is on its way: only that what was stored still is.
                answer = replace(answer, number=entry.stored)
        self._take_up(entry, answer, None)

    def release(self) -> Sequence[Entry]:
        """Forget what ended a lease ago; returns it."""
        now = self._monotonic()
        linger = self._store.limits.lease / 1000
        with self._lock:
            done = [
                entry
                for entry in self._entries.values()
                if entry.stopped is not None or (entry.ended_at is not None and now - entry.ended_at > linger)
            ]
            for entry in done:
                del self._entries[entry.ref.task_id]
                self._dirty.pop(entry.ref.task_id, None)
            return done

    def request_cancel(self, task_id: str, at: int) -> None:
        """Tell a run here that it was asked to stop (Unix ms)."""
        with self._lock:
            entry = self._entries.get(task_id)
        if entry is not None:
            self._heard_cancel(entry, at)

    def running(self) -> Sequence[Entry]:
        """The tasks of this process that have not ended."""
        with self._lock:
            return [each for each in self._entries.values() if each.end is None and each.stopped is None]

    # The flusher

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="sessionstatus-outbox", daemon=True)
            self._thread.start()

    def _touch(self, entry: Entry) -> None:
        self._dirty[entry.ref.task_id] = entry
        self._bell.ring()

    def _run(self) -> None:
        while True:
            self._bell.listen()
            with self._lock:
                due, wait = self._due()
                if not due and self._closing and not self._dirty:
                    return
                batches = [(entry, entry.batch()) for entry in due]
            if batches:
                self._send(batches)
            else:
                self._bell.wait(wait)

    def _due(self) -> tuple[list[Entry], float | None]:
        """The entries to send now, and how long to wait when there are none: progress alone goes at most 4 times a
        second."""
        now = self._monotonic()
        due: list[Entry] = []
        wait: float | None = None
        for task_id, entry in list(self._dirty.items()):
            if entry.settled:
                del self._dirty[task_id]
                continue
            left = entry.retry_at - time.monotonic()  # paces this thread, whatever clock the leases go by
            only_change = entry.stored >= entry.number and not (entry.change and entry.change.running)
            if only_change and not self._closing:
                left = max(left, entry.changed_at + CHANGE_INTERVAL - now)
            if left > 0:
                wait = left if wait is None else min(wait, left)
            elif len(due) < BATCH_TASKS:
                due.append(entry)
                # To the back: with many busy tasks each gets its turn.
                self._dirty[task_id] = self._dirty.pop(task_id)
        return due, wait

    def _send(self, batches: Sequence[tuple[Entry, Append]]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            answers = self._store.append([append for _, append in batches])
        except SessionStatusError as error:
            answers = [error] * len(batches)
        except Exception as error:  # a defect must not end the flusher: the events are still here
            log.exception("The outbox could not store its events.")
            answers = [error] * len(batches)
        reached = False
        for (entry, append), answer in zip(batches, answers):
            if isinstance(answer, Exception):
                stored = False
                if not isinstance(answer, StoreUnavailable):
                    log.error("Task %s: %s", entry.ref.task_id[:8], answer)
            else:
                try:
                    stored = self._take_up(entry, answer, append)
                except Exception:  # one task's trouble must not end the flusher of all
                    log.exception("The outbox could not go on with task %s.", entry.ref.task_id[:8])
                    stored = False
            reached = reached or stored
            entry.failures = 0 if stored else entry.failures + 1
            if not stored:
                pause = min(MAX_BACKOFF, 0.05 * 2 ** min(entry.failures, 8))
                entry.retry_at = time.monotonic() + pause * random.uniform(0.5, 1.0)
        with self._lock:
            self._reachable = reached
            self._progress.notify_all()

    def _take_up(self, entry: Entry, answer: Answer, append: Append | None) -> bool:
        """Act on the store's answer; False when it should be asked again after a pause."""
        if answer.verdict is Verdict.MISSING:
            return self._recreate(entry)
        if answer.cancel_requested_at is not None:
            self._heard_cancel(entry, answer.cancel_requested_at)
        ended = False
        with self._lock:
            entry.answered_at = self._monotonic()
            if answer.verdict in (Verdict.DELETED, Verdict.FENCED, Verdict.CLOSED):
                self._stop(entry, answer.verdict)
            elif answer.verdict is Verdict.NEED:
                entry.stored = max(entry.floor, answer.number)
                entry.end_stored = False
                self._touch(entry)
            elif append is not None:
                entry.stored = max(append.base + len(append.events), entry.stored)
                if entry.change is append.change:
                    entry.change = None
                if append.change is not None:
                    entry.changed_at = self._monotonic()
                if append.end is not None:
                    ended = entry.ended_at is None
                    entry.end_stored = True
                    entry.ended_at = entry.ended_at or self._monotonic()
                entry.trim(self._bounds)
            self._progress.notify_all()
        if entry.stopped is not None and entry.end is None:
            self._heard_cancel(entry, answer.cancel_requested_at or 0)
        if ended and self._on_stored_end is not None:
            self._on_stored_end(entry)
        return True

    def _stop(self, entry: Entry, verdict: Verdict) -> None:
        entry.stopped = verdict
        self._dirty.pop(entry.ref.task_id, None)
        log.info("Task %s is stopped: %s.", entry.ref.task_id[:8], verdict.value)

    def _heard_cancel(self, entry: Entry, at: int) -> None:
        with self._lock:
            heard = entry.cancel_requested_at is not None
            if not heard:
                entry.cancel_requested_at = at
            callback = entry.on_cancel
        if not heard and callback is not None:
            callback()

    def _recreate(self, entry: Entry) -> bool:
        """The store lost the task: make session and task again from what is held here, then send again from the
        floor."""
        silence = self._monotonic() - entry.answered_at
        if silence > self._store.limits.session_ttl / 1000:
            # A tombstone may have been here and gone: nobody may bring a deleted task back.
            with self._lock:
                self._stop(entry, Verdict.DELETED)
                self._progress.notify_all()
            return True
        try:
            self._store.begin(entry.session, replace(entry.task, epoch=entry.epoch), own=False)
        except StoreUnavailable:
            return False
        except SessionStatusError as error:
            log.warning("Task %s could not be made again: %s", entry.ref.task_id[:8], error)
            with self._lock:
                self._stop(entry, Verdict.DELETED)
                self._progress.notify_all()
            return True
        log.warning("Task %s was made again: the store had lost it.", entry.ref.task_id[:8])
        with self._lock:
            entry.retry_at = 0.0
            entry.stored = entry.floor
            entry.end_stored = False
            entry.change = entry.latest if entry.end is None else None
            self._touch(entry)
        return True

    def close(self, timeout: float) -> bool:
        """Store what is left and end the thread; False when the time (s) ran out first."""
        until = self._monotonic() + timeout
        with self._lock:
            self._closing = True
            self._bell.ring()
            thread = self._thread
            while any(not entry.settled for entry in self._dirty.values()):
                left = until - self._monotonic()
                if left <= 0:
                    return False
                self._progress.wait(min(left, 0.2))
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - self._monotonic()))
        return True


def _merged(earlier: Change | None, later: Change) -> Change:
    if earlier is None:
        return later
    given = {name: value for name, value in later.__dict__.items() if value is not None and value is not False}
    return replace(earlier, **given)
