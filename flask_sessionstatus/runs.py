"""Run: what the code that does the work holds."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from werkzeug.local import LocalProxy

from .errors import Cancelled, InvalidValue, SessionStatusError, StoreUnavailable
from .estimate import RateMeter
from .leases import Beats
from .models import Cursor, Json, Task, TaskState, check_event_type, to_json
from .stores.base import Begun, Change, End, SessionDraft, Store, TaskDraft, TaskRef
from .streaming.frames import end_data
from .streaming.hub import Hub
from .streaming.outbox import Bounds, Entry, Outbox

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("flask_sessionstatus")

IfRunning = Literal["allow", "reject", "replace"]
START_WAIT = 1.0
END_WAIT = 5.0
REPLACE_WAIT = 30.0
MAX_MESSAGE = 500

_current: ContextVar[Run] = ContextVar("flask_sessionstatus.current_run")

current_run: Run = LocalProxy(_current, unbound_message="No run is being worked on here.")  # type: ignore[assignment]
"""The run of the job that is being worked on. Raises RuntimeError outside of one."""


class Engine:
    """What the runs of one app share in one process: the store, the outbox, the hub and the beats."""

    def __init__(
        self,
        store: Store,
        *,
        heartbeat: float = 5.0,
        max_followers: int = 1000,
        max_event_bytes: int = 65_536,
        max_result_bytes: int = 1_048_576,
        max_events: int = 10_000,
    ) -> None:
        self.store = store
        self.max_event_bytes = max_event_bytes
        self.max_result_bytes = max_result_bytes
        self.hub = Hub(store, max_followers)
        self.outbox = Outbox(store, Bounds(events=max_events), on_stored_end=self._remember_duration)
        self.beats = Beats(store, self.outbox, heartbeat)
        self.accesses = self.beats.accesses
        self._shutting_down = threading.Lock()

    def _remember_duration(self, entry: Entry) -> None:
        if entry.duration is None:
            return
        try:
            self.store.record_duration(entry.task.type, entry.duration)
        except SessionStatusError as error:
            log.info("A duration of %s was not remembered: %s", entry.task.type, error)

    def shutdown(self, timeout: float) -> bool:
        """End what runs here, store what is left and let go; False when that took longer than `timeout` s.

        Once is enough: a second call waits for the first and finds nothing to do.
        """
        with self._shutting_down:
            return self.hub.closed or self._shutdown(timeout)

    def _shutdown(self, timeout: float) -> bool:
        for entry in self.outbox.running():
            error = ("Shutdown", "The process that did the work was shut down.")
            self.outbox.end(
                entry, End(TaskState.ERROR.value, *error), end_data(entry.ref.task_id, TaskState.ERROR, *error)
            )
            self.outbox.request_cancel(entry.ref.task_id, 0)
        stored = self.outbox.close(timeout)
        self.beats.close()
        self.hub.close()
        return stored


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
        self._task = task
        self._if_running = if_running
        self._own = own
        self._monotonic = monotonic
        self._ref = TaskRef(session.conversation_id, session.session_id, task.task_id)
        self._entry: Entry | None = None
        self._begun: Begun | None = None
        self._meter: RateMeter | None = None
        self._began_at = 0.0
        self._result: str | None = None
        self._pid = os.getpid()
        self._callbacks: list[Callable[[], None]] = []
        self._stop = threading.Event()
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
        created = self._task.created_at or 0
        return Task(
            task_id=self.task_id,
            session_id=self.session_id,
            conversation_id=self.conversation_id,
            namespace_id=self._session.namespace_id,
            type=self._task.type,
            state=TaskState.PENDING if self._task.pending else TaskState.RUNNING,
            attempt=self.attempt,
            epoch=entry.epoch,
            tail=entry.number,
            created_at=created,
            updated_at=created,
            started_at=self._task.started_at,
            wire=self._task.wire,
        )

    # Life

    def begin(self) -> None:
        """Open the session and begin the task; the store is asked at once.

        Raises StoreUnavailable, SessionConflict, TaskRunning, AlreadyStarted, NamespaceFull.
        """
        if self._engine.hub.closed:
            raise StoreUnavailable("This process is ending. Try again in a moment.")
        begun = self._store.begin(self._session, self._task, self._if_running, self._own)
        self._begun = begun
        self._session = replace(self._session, created_at=begun.session_created_at)
        self._task = replace(
            self._task,
            created_at=begun.task_created_at,
            started_at=None if self._task.pending else begun.task_created_at,
        )
        self._began_at = self._monotonic()
        self._entry = self._outbox.open(self._session, self._task, begun.epoch, begun.tail)
        self._entry.on_cancel = self._on_cancel
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
            self._task = replace(self._task, pending=False, started_at=(self._task.created_at or 0) + waited)
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
        while waiting and not self._stop.is_set() and self._monotonic() < until:
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
    ) -> None:
        """End the task behind everything emitted, and wait for the store while it is reachable (at most 5 s)."""
        entry = self._live()
        # A stop that comes from here on finds nothing to stop.
        self._callbacks.clear()
        trace = None
        if error is not None:
            error_type = type(error).__name__
            error_message = _message_of(error)
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        end = End(state.value, error_type, error_message, self._result if state is TaskState.COMPLETED else None, trace)
        entry.duration = self.duration() if state is TaskState.COMPLETED else None
        self._outbox.end(entry, end, end_data(self.task_id, state, error_type, error_message))
        self._engine.hub.ignore(self._store.cancel_channel(self._ref))
        self._outbox.wait_while_reachable(entry, END_WAIT)

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
        if len(text) > self._engine.max_event_bytes or (
            not text.isascii() and len(text.encode()) > self._engine.max_event_bytes
        ):
            raise InvalidValue(
                f"An event holds at most {self._engine.max_event_bytes} bytes of JSON.", taskId=self.task_id
            )
        return Cursor(entry.epoch, self._outbox.emit(entry, check_event_type(type), text))

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the work is, in its own unit. With a total the estimated completion follows from the rate."""
        entry = self._live()
        for value in (current, *(() if total is None else (total,))):
            if not (isinstance(value, (int, float)) and abs(value) < 1e14):
                raise InvalidValue(f"Progress is told in numbers below 1e14, not {value!r}.", taskId=self.task_id)
        remaining = None
        if self._meter is not None:
            self._meter.update(float(self.duration()), float(current))
            if total is not None:
                remaining = self._meter.remaining(float(total))
        if message is not None and len(to_json(message)) > MAX_MESSAGE:
            raise InvalidValue(f"A progress message holds at most {MAX_MESSAGE} characters.", taskId=self.task_id)
        self._outbox.change(entry, Change(False, current, total, message, remaining))

    def result(self, value: Json) -> None:
        """Keep the task's result; it is stored with the end. Raises InvalidValue when it is no JSON or too large."""
        text = to_json(value)
        if len(text.encode()) > self._engine.max_result_bytes:
            raise InvalidValue(
                f"A result holds at most {self._engine.max_result_bytes} bytes of JSON.", taskId=self.task_id
            )
        self._result = text

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
                    self._outbox.answered(self.task_id, answer)

    # What the work is told

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked the task to stop, or it was deleted or replaced."""
        return self._stop.is_set()

    def check_cancelled(self) -> None:
        """Raise Cancelled if the task was asked to stop."""
        if self._stop.is_set():
            raise Cancelled("The task was asked to stop.", taskId=self.task_id)

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Sleep until the task is asked to stop, at most `timeout` s; says whether it was."""
        return self._stop.wait(timeout)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call back, from another thread, when the task is asked to stop; at once if it was."""
        self._callbacks.append(callback)
        if self._stop.is_set():
            callback()

    def _on_cancel(self) -> None:
        self._stop.set()
        for callback in list(self._callbacks):
            try:
                callback()
            except Exception:  # a callback of the host's must not end our thread
                log.exception("An on_cancel callback failed.")

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
        if error is None:
            self.finish(TaskState.COMPLETED)
        elif isinstance(error, Cancelled):
            self.finish(TaskState.CANCELLED)
            return True
        elif isinstance(error, asyncio.CancelledError):
            self.finish(TaskState.CANCELLED)
        else:
            self.finish(TaskState.ERROR, error)
        return False

    async def __aenter__(self) -> Self:
        if self._entry is None:
            await asyncio.to_thread(self.begin)
        self._tokens.append(_current.set(self))
        try:
            await asyncio.to_thread(self.start)
        except BaseException as error:
            self._stop.set()
            await asyncio.shield(asyncio.to_thread(self.__exit__, type(error), error, error.__traceback__))
            raise
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
        stopped = isinstance(error, asyncio.CancelledError) and self._stop.is_set()
        if self._tokens:
            _current.reset(self._tokens.pop())
        ending = error if not stopped else Cancelled("The task was asked to stop.", taskId=self.task_id)
        swallowed = await asyncio.shield(asyncio.to_thread(self.__exit__, kind, ending, trace))
        return swallowed and not stopped


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        log.info("The event loop of a cancelled task is closed already.")


def _message_of(error: BaseException) -> str:
    """The error's message, fit for a front end: one line, bounded; the traceback stays in the log and the store."""
    text = " ".join(str(error).encode("utf-8", "replace").decode().split())
    return text[:MAX_MESSAGE] or type(error).__name__
