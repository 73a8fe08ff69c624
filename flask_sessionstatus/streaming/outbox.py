"""The outbox: the work hands over its events and goes on; a flusher stores them, in order, as often as it takes.

Batching adds no delay: what arrives while a call is under way goes with the next one.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..errors import Cancelled, InvalidValue, OutboxFull, RecordUnreadable, SessionStatusError, StoreUnavailable
from ..models import to_json, utf8_size
from ..stores.base import Answer, Append, Beat, Change, End, SessionDraft, Store, TaskDraft, Verdict
from .bell import Bell
from .entry import Bounds, Entry
from .rest import Rest

log = logging.getLogger("flask_sessionstatus")

BATCH_TASKS = 128
CHANGE_INTERVAL = 0.25
# Well below two heartbeats: for so long after an outage the unknown is not called unknown.
MAX_BACKOFF = 0.3


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
        """Take up a task that has begun; an earlier attempt of it that is still here is over."""
        entry = Entry(session, task, epoch, tail)
        if task.attempt > 1 and tail == 1:  # the store's own event: it must be there again when the store was lost
            entry.floor = 0
            text = to_json({"attempt": task.attempt})
            entry.add("attempt", text, utf8_size(text))
        with self._lock:
            earlier = self._entries.get(task.task_id)
            if earlier is not None:
                self._stop(earlier, Verdict.FENCED)
                self._progress.notify_all()
            self._entries[task.task_id] = entry
            self._ensure_thread()
        if earlier is not None and earlier.end is None:
            self._heard_cancel(earlier, 0)
        return entry

    def emit(self, entry: Entry, type: str, json: str, size: int) -> int:
        """Hand over an event whose JSON has `size` bytes of UTF-8; returns its number.

        Waits only while the outbox is full. Raises Cancelled and OutboxFull.
        """
        with self._lock:
            if entry.stopped is not None or entry.end is not None or entry.cancel_requested_at is not None:
                self._refuse(entry)
            if entry.is_full(self._bounds):
                self._wait_for_room(entry)
            number = entry.add(type, json, size)
            self._dirty[entry.ref.task_id] = entry
        self._bell.ring()  # once the lock is free: the flusher would only wait for it
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
            if change.remaining is not None:
                entry.ends_at = self._monotonic() + change.remaining / 1000
            self._touch(entry)

    def end(self, entry: Entry, end: End, event: str | None) -> None:
        """Hand over the end, behind everything emitted; without an event it ends the attempt and not the task.

        Does nothing for a task that has one.
        """
        with self._lock:
            if entry.stopped is not None or entry.end is not None:
                return
            if event is not None:
                entry.add("end", event, utf8_size(event))
            entry.end = end
            self._touch(entry)

    def hand_over(self, entry: Entry) -> Rest | None:
        """What another process needs to go on; None when all is stored, and not only here."""
        with self._lock:
            return None if entry.settled and not self._store.degraded else entry.rest()

    def take_over(self, entry: Entry, rest: Rest) -> None:
        """Store what another process handed over, and linger for it."""
        with self._lock:
            entry.take_over(rest)
            self._touch(entry)

    def leave(self, entry: Entry) -> None:
        """Let go of a task that another process works on; it is not beaten for here any more."""
        with self._lock:
            if self._entries.get(entry.ref.task_id) is entry:
                del self._entries[entry.ref.task_id]

    def flush(self, entry: Entry, timeout: float | None = None) -> bool:
        """Wait until all that was handed over is stored; False when the time (s) ran out first."""
        until = None if timeout is None else self._monotonic() + timeout
        with self._lock:
            if entry.settled or (timeout is not None and timeout <= 0):
                return entry.settled
            with self._waiting(entry):
                while not entry.settled:
                    left = None if until is None else until - self._monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._progress.wait(left)
                return True

    def wait_while_reachable(self, entry: Entry, timeout: float) -> bool:
        """As flush, but returns at once when the store cannot be reached."""
        until = self._monotonic() + timeout
        with self._lock, self._waiting(entry):
            while not entry.settled:
                left = until - self._monotonic()
                if left <= 0 or not self._reachable:
                    return False
                self._progress.wait(min(left, 0.5))
            return True

    @contextmanager
    def _waiting(self, entry: Entry) -> Iterator[None]:
        """Somebody waits until the entry is settled: what it has to say goes at once."""
        entry.waiters += 1
        self._touch(entry)
        try:
            yield
        finally:
            entry.waiters -= 1

    # What the beat thread does

    def beats(self) -> Sequence[Beat]:
        """One beat for each task that is held here."""
        with self._lock:
            return self.beats_at_once()

    def beats_at_once(self) -> Sequence[Beat]:
        """As beats, without the lock: for a thread that must not wait for gevent's."""
        entries = list(self._entries.values())
        return [Beat(entry.ref, entry.task.attempt, entry.epoch) for entry in entries if entry.stopped is None]

    def answered(self, beat: Beat, answer: Answer) -> None:
        """Take up what the store said to a beat."""
        with self._lock:
            entry = self._entries.get(beat.ref.task_id)
            if entry is None or entry.stopped is not None or entry.epoch != beat.epoch:  # of an earlier attempt
                return
            if answer.verdict is Verdict.STORED and answer.number < entry.stored:
                answer = replace(answer, verdict=Verdict.NEED)
            elif answer.verdict is Verdict.STORED:
                # The beat says nothing of what is on its way: only that what was stored still is.
                answer = replace(answer, number=entry.stored)
        self._take_up(entry, answer, None)

    def release(self, unreached: Collection[str] = ()) -> Sequence[Entry]:
        """Forget what ended a lease ago, but for tasks that could not be beaten for just now; returns it."""
        now = self._monotonic()
        linger = self._store.limits.lease / 1000
        with self._lock:
            done = [
                entry
                for task_id, entry in self._entries.items()
                if entry.stopped is not None
                or (entry.ended_at is not None and now - entry.ended_at > linger and task_id not in unreached)
            ]
            for entry in done:
                del self._entries[entry.ref.task_id]
                self._clean(entry)
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
            own = [each for each in self._entries.values() if not each.watched]
            return [each for each in own if each.end is None and each.stopped is None]

    # The flusher

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="sessionstatus-outbox", daemon=True)
            self._thread.start()

    def _touch(self, entry: Entry) -> None:
        if entry.stopped is None:
            self._dirty[entry.ref.task_id] = entry
            self._bell.ring()

    def _run(self) -> None:
        while True:
            self._bell.listen()
            with self._lock:
                due, wait = self._due()
                if not due and self._closing and not self._dirty:
                    return
                batches = [(entry, entry.batch(self._monotonic())) for entry in due]
            if batches:
                self._send(batches)
            else:
                self._bell.wait(wait)

    def _due(self) -> tuple[list[Entry], float | None]:
        """The entries to send now, and how long to wait when there are none: progress alone goes at most 4 times a
        second, unless somebody waits for it."""
        now = self._monotonic()
        due: list[Entry] = []
        wait: float | None = None
        for task_id, entry in list(self._dirty.items()):
            if entry.settled:
                del self._dirty[task_id]
                continue
            left = entry.retry_at - time.monotonic()  # paces this thread, whatever clock the leases go by
            if not self._closing and not entry.urgent:
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
                # A store that answers for one task alone that its record cannot be read is there for the others.
                reached = reached or isinstance(answer, RecordUnreadable)
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

    def _clean(self, entry: Entry) -> None:
        """Nothing of this attempt is left to be sent; a newer one of the same task may have something."""
        if self._dirty.get(entry.ref.task_id) is entry:
            del self._dirty[entry.ref.task_id]

    def _stop(self, entry: Entry, verdict: Verdict) -> None:
        entry.stopped = verdict
        self._clean(entry)
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
        if entry.stopped is not None:  # by an answer that overtook this one
            return True
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
        level = logging.INFO if self._store.degraded else logging.WARNING  # one that stands in had nothing to lose
        log.log(level, "Task %s was made again: the store had lost it.", entry.ref.task_id[:8])
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
