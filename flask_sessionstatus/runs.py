"""Run: what the code that does the work holds."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeVar

from werkzeug.local import LocalProxy

from .concurrency import is_kill
from .engine import Engine
from .errors import Cancelled, InvalidValue, SessionStatusError, StoreUnavailable
from .estimate import RateMeter
from .models import Cursor, Json, Task, TaskState, check_event_type, to_json, utf8_size
from .stops import Stop
from .stores.base import Begun, Change, End, SessionDraft, TaskDraft, TaskRef
from .streaming.entry import Entry
from .streaming.frames import end_data
from .streaming.rest import Rest
from .tickets import Ticket

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("flask_sessionstatus")

T = TypeVar("T")
IfRunning = Literal["allow", "reject", "replace"]
START_WAIT = 1.0
END_WAIT = 5.0
REPLACE_WAIT = 30.0
MAX_MESSAGE = 500
MAX_TRACEBACK = 65_536

_current: ContextVar[Run] = ContextVar("flask_sessionstatus.current_run")

current_run: Run = LocalProxy(_current, unbound_message="No run is being worked on here.")  # type: ignore[assignment]
"""The run of the job that is being worked on. Raises RuntimeError outside of one."""


class Run:
    """One attempt of a task, from its begin to its end; usable in any thread of the process that began it.

    Leaving the `with` block ends the task: completed; `Cancelled` (swallowed): cancelled; any other exception (raised
    on): error. The end follows everything that was emitted.
    """

    def __init__(
        self,
        engine: Engine,
        session: SessionDraft,
        task: TaskDraft,
        *,
        if_running: IfRunning = "allow",
        own: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._store = engine.store
        self._outbox = engine.outbox
        self._session = session
        # What replaces others has not begun before they have stopped.
        self._task = replace(task, pending=True) if if_running == "replace" else task
        self._if_running = if_running
        self._own = own
        self._monotonic = monotonic
        self._ref = TaskRef(session.conversation_id, session.session_id, task.task_id)
        self._entry: Entry | None = None
        self._begun: Begun | None = None
        self._meter: RateMeter | None = None
        self._total: float | None = None
        self._began_at = 0.0
        self._result: str | None = None
        self._delay: float | None = None
        self._pid = os.getpid()
        self._stop = Stop()
        self._tokens: list[Token[Run]] = []
        self._worker: asyncio.Task[object] | None = None

    def __repr__(self) -> str:
        return f"<Run {self._task.type} {self.task_id[:8]} of session {self.session_id[:8]}>"

    @property
    def conversation_id(self) -> str:
        return self._session.conversation_id

    @property
    def session_id(self) -> str:
        return self._session.session_id

    @property
    def task_id(self) -> str:
        return self._task.task_id

    @property
    def attempt(self) -> int:
        return self._task.attempt

    @property
    def task(self) -> Task:
        """The task as this process knows it. Raises SessionStatusError before the begin."""
        entry = self._live()
        return task_of(self._session, self._task, entry.epoch, entry.number)

    # Life

    def begin(self) -> None:
        """Open the session and begin the task; the store is asked at once.

        Raises StoreUnavailable, NotFound for a deleted session, SessionConflict, TaskRunning, AlreadyStarted,
        NamespaceFull, ConversationFull.
        """
        if self._engine.closing:
            raise StoreUnavailable("This process is ending. Try again in a moment.")
        self.go_on(self._store.begin(self._session, self._task, self._if_running, self._own))

    def go_on(self, begun: Begun) -> None:
        """Take up what has begun in the store."""
        self._begun = begun
        self._session = replace(
            self._session, created_at=begun.session_created_at, namespace_id=begun.namespace_id, key=begun.key
        )
        self._task = replace(
            self._task, created_at=begun.task_created_at, started_at=None if self._task.pending else begun.now
        )
        self._began_at = self._monotonic()
        self._entry = self._outbox.open(self._session, self._task, begun.epoch, begun.tail)
        self._entry.on_cancel = self._stop.request
        if not self._task.pending:
            self._meter = RateMeter(0.0)
        self._engine.hub.listen(self._store.cancel_channel(self._ref), self._engine.beats.wake)
        self._engine.beats.ensure()

    def start(self) -> None:
        """Turn a pending task into a running one; with `if_running="replace"` once those before it have stopped."""
        entry = self._live()
        self._wait_for_replaced()
        if self._task.pending:
            waited = round((self._monotonic() - self._began_at) * 1000)
            begun_at = self._begun.now if self._begun is not None else 0
            self._task = replace(self._task, pending=False, started_at=begun_at + waited)
            entry.task = self._task
            self._began_at = self._monotonic()
            self._meter = RateMeter(0.0)
            self._outbox.change(entry, Change(running=True))
            # A task that was cancelled while it waited must not begin to work.
            self._outbox.wait_while_reachable(entry, START_WAIT)

    def _wait_for_replaced(self) -> None:
        """Wait until the tasks that were asked to stop for this one have ended; at most a lease and a bit: then they
        are lost."""
        waiting = set(self._begun.stopping) if self._begun is not None else set()
        until = self._monotonic() + max(REPLACE_WAIT, 2 * self._store.limits.lease / 1000)
        while waiting and not self._stop.requested and self._monotonic() < until:
            try:
                snapshot = self._store.snapshot(self.conversation_id)
            except StoreUnavailable:
                self._stop.wait(0.5)
                continue
            waiting = {each for each in waiting if each in snapshot.tasks and snapshot.is_live(snapshot.tasks[each])}
            if waiting:
                self._stop.wait(0.05)

    def _live(self) -> Entry:
        if os.getpid() != self._pid:
            raise SessionStatusError(
                "This run belongs to the parent process; begin one after the fork.", taskId=self.task_id
            )
        if self._entry is None:
            raise SessionStatusError("The run has not begun: use it in a with block.", taskId=self.task_id)
        return self._entry

    def finish(
        self,
        state: TaskState,
        error: BaseException | None = None,
        *,
        error_type: str | None = None,
        error_message: str | None = None,
        wait: float = END_WAIT,
    ) -> None:
        """End the task behind everything emitted, and wait for the store while it is reachable, at most `wait` s."""
        trace = None
        if error is not None:
            error_type = type(error).__name__
            error_message = message_of(error)
            if self._engine.store_tracebacks:
                lines = traceback.format_exception(type(error), error, error.__traceback__)
                trace = "".join(lines).encode("utf-8", "replace").decode()[-MAX_TRACEBACK:]
        end = End(state.value, error_type, error_message, self._result if state is TaskState.COMPLETED else None, trace)
        self._live().duration = self.duration() if state is TaskState.COMPLETED else None
        self._end(end, end_data(self.task_id, state, error_type, error_message), wait)

    def _end(self, end: End, event: str | None, wait: float = END_WAIT) -> None:
        entry = self._live()
        # A stop that comes from here on finds nothing to stop.
        self._stop.forget()
        self._outbox.end(entry, end, event)
        self._engine.hub.ignore(self._store.cancel_channel(self._ref))
        self._outbox.wait_while_reachable(entry, wait)

    def leave(self, timeout: float = END_WAIT) -> None:
        """Let go of the task without ending it: a process that watches over this one does that.

        What was emitted is stored first, as long as the store is reachable, within `timeout` s.
        """
        entry = self._live()
        if self._tokens:
            _current.reset(self._tokens.pop())
        self._stop.forget()
        self._engine.hub.ignore(self._store.cancel_channel(self._ref))
        self._outbox.wait_while_reachable(entry, timeout)
        self._outbox.leave(entry)

    def hand_over(self) -> Rest | None:
        """What the process that watches over this one needs to go on storing (`Watch.take_over`); None when all is
        stored.

        For a process that ends at once when its task has ended.
        """
        return self._outbox.hand_over(self._live())

    def retry(self, delay: float = 0.0) -> str:
        """Leave the task to its queue when the block is left, in whatever way: pending, with its next attempt.

        `delay` is for how long the queue holds it back, in s. Returns the ticket of the next attempt; that of this one
        does as well. A task that was asked to stop is cancelled instead.
        """
        entry = self._live()
        self._delay = delay
        now = self._begun.now + self.duration() if self._begun is not None else 0
        # So long the store must know the task as deleted, once it is.
        self._outbox.change(entry, Change(ticket=self._wait(delay)))
        self._outbox.wait_while_reachable(entry, START_WAIT)
        until = now + self._wait(delay) if entry.stopped is None else now
        task = replace(self._task, attempt=self.attempt + 1, pending=True, leased=False, epoch=entry.epoch)
        return str(Ticket(self._session, replace(task, started_at=None), until))

    def _wait(self, delay: float) -> int:
        """How long a task that its queue holds back may wait (ms)."""
        return self._store.limits.max_pending_age + round(delay * 1000)

    def duration(self) -> int:
        """How long the task has been running, in ms."""
        return round((self._monotonic() - self._began_at) * 1000)

    # What the work says

    def emit(self, type: str, data: Json = None) -> Cursor:
        """Append an event; returns its cursor and does not wait for the store.

        Raises Cancelled once the task was stopped or deleted, InvalidValue for a reserved type, for data that is not
        JSON or longer than `SESSIONSTATUS_MAX_EVENT_BYTES`, and OutboxFull after 30 s with a full outbox.
        """
        entry = self._live()
        text = to_json(data if data is not None else {})
        size = utf8_size(text)
        if size > self._engine.max_event_bytes:
            raise InvalidValue(
                f"An event holds at most {self._engine.max_event_bytes} bytes of JSON.", taskId=self.task_id
            )
        return Cursor(entry.epoch, self._outbox.emit(entry, check_event_type(type), text, size))

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the work is, in its own unit. With a total, which holds until another is told, the estimated
        completion follows from the rate."""
        entry = self._live()
        for value in (current, *(() if total is None else (total,))):
            if not (isinstance(value, (int, float)) and abs(value) < 1e14):
                raise InvalidValue(f"Progress is told in numbers below 1e14, not {value!r}.", taskId=self.task_id)
        if message is not None and len(to_json(message)) > MAX_MESSAGE:
            raise InvalidValue(f"A progress message holds at most {MAX_MESSAGE} characters.", taskId=self.task_id)
        if total is not None:
            self._total = total
        remaining = None
        if self._meter is not None:
            self._meter.update(float(self.duration()), float(current))
            if self._total is not None:
                remaining = self._meter.remaining(float(self._total))
        self._outbox.change(entry, Change(False, current, total, message, remaining))

    def result(self, value: Json) -> None:
        """Keep the task's result; it is stored with the end. Raises InvalidValue when it is no JSON or too large."""
        text = to_json(value)
        if utf8_size(text) > self._engine.max_result_bytes:
            raise InvalidValue(
                f"A result holds at most {self._engine.max_result_bytes} bytes of JSON.", taskId=self.task_id
            )
        self._result = text

    @property
    def has_result(self) -> bool:
        """Whether the work has given a result."""
        return self._result is not None

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything emitted is stored; False when `timeout` (s) ran out first."""
        return self._outbox.flush(self._live(), timeout)

    def heartbeat(self) -> None:
        """Renew the lease now. Only for work that stops every other thread of its process for longer than a lease."""
        entry = self._live()
        for beat in self._outbox.beats():
            if beat.ref != entry.ref:
                continue
            try:
                answers = self._store.beat([beat])
            except StoreUnavailable:
                return
            for answer in answers:
                if not isinstance(answer, Exception):
                    self._outbox.answered(beat, answer)

    # What the work is told

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the task to stop, or it was deleted or replaced."""
        return self._stop.requested

    def check_cancelled(self) -> None:
        """Raise Cancelled if the task was asked to stop."""
        if self._stop.requested:
            raise Cancelled("The task was asked to stop.", taskId=self.task_id)

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Sleep until the task is asked to stop, at most `timeout` s; says whether it was."""
        return self._stop.wait(timeout)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Call back, from another thread, when the task is asked to stop; at once if it was."""
        self._stop.on_request(callback)

    # As a context manager

    def __enter__(self) -> Self:
        if self._entry is None:
            self.begin()
        self._tokens.append(_current.set(self))
        try:
            self.start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._tokens:
            _current.reset(self._tokens.pop())
        if isinstance(error, Cancelled):
            self.finish(TaskState.CANCELLED)
            return True
        if isinstance(error, asyncio.CancelledError) or is_kill(error):
            self.finish(TaskState.CANCELLED)
        elif self._delay is not None:
            self._end(End(TaskState.PENDING.value, wait=self._wait(self._delay)), None)
        elif error is None:
            self.finish(TaskState.COMPLETED)
        else:
            self.finish(TaskState.ERROR, error)
        return False

    async def __aenter__(self) -> Self:
        try:
            if self._entry is None:
                await see_through(self.begin)
            await see_through(self.start, self._stop.request)
        except BaseException as error:
            if self._entry is not None:
                await see_through(partial(self.__exit__, type(error), error, error.__traceback__))
            raise
        self._tokens.append(_current.set(self))
        loop, worker = asyncio.get_running_loop(), asyncio.current_task()
        if worker is not None:
            self._worker = worker
            self.on_cancel(lambda: _call_soon(loop, self._cancel_worker))
        return self

    def _cancel_worker(self) -> None:
        """In the event loop: cancel the coroutine, unless it has left the block already."""
        if self._worker is not None:
            self._worker.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._worker = None
        stopped = isinstance(error, asyncio.CancelledError) and self._stop.requested
        if self._tokens:
            _current.reset(self._tokens.pop())
        ending = error if not stopped else Cancelled("The task was asked to stop.", taskId=self.task_id)
        swallowed = await asyncio.shield(asyncio.to_thread(self.__exit__, kind, ending, trace))
        return swallowed and not stopped


def task_of(session: SessionDraft, task: TaskDraft, epoch: int, tail: int) -> Task:
    """The task that a draft became when it began, as its process knows it."""
    created = task.created_at or 0
    return Task(
        task_id=task.task_id,
        session_id=session.session_id,
        conversation_id=session.conversation_id,
        namespace_id=session.namespace_id,
        type=task.type,
        state=TaskState.PENDING if task.pending else TaskState.RUNNING,
        attempt=task.attempt,
        epoch=epoch,
        tail=tail,
        created_at=created,
        updated_at=created,
        started_at=task.started_at,
        wire=task.wire,
    )


async def see_through(call: Callable[[], T], on_cancel: Callable[[], None] = lambda: None) -> T:
    """Call in a thread and wait for it, also when the coroutine is cancelled meanwhile: that is raised afterwards."""
    called = asyncio.ensure_future(asyncio.to_thread(call))
    cancelled: asyncio.CancelledError | None = None
    while not called.done():
        try:
            await asyncio.wait([called])
        except asyncio.CancelledError as error:
            cancelled = error
            on_cancel()
    if cancelled is None:
        return called.result()
    called.exception()  # looked at, so that asyncio does not call it forgotten
    raise cancelled


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        log.info("The event loop of a cancelled task is closed already.")


def message_of(error: BaseException) -> str:
    """The error's message, fit for a front end: one line, bounded; the traceback stays in the log."""
    text = " ".join(str(error).encode("utf-8", "replace").decode().split())
    return text[:MAX_MESSAGE] or type(error).__name__
