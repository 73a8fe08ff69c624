"""`@sessionstatus.background`: a function that runs in a thread pool, under the app context, as a task."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, fields, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

from flask import Flask
from flask.ctx import AppContext, RequestContext

from .errors import AlreadyStarted, InvalidValue
from .models import Json, Task, TaskState, check_event_type, check_id
from .runs import IfRunning, Run
from .sessions import UNSET
from .streaming.frames import WIRES

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import ParamSpec

    P = ParamSpec("P")
else:
    P = TypeVar("P")

R = TypeVar("R")

log = logging.getLogger("flask_sessionstatus")


@dataclass(frozen=True)
class Options:
    """How a background function is started; as the arguments of `SessionStatus.run`."""

    type: str = "generation"
    session_id: str | None = None
    namespace_id: Any = UNSET
    wire: str = "sse"
    if_running: IfRunning = "allow"
    idempotency_key: str | None = None
    metadata: dict[str, Json] | None = None

    def __post_init__(self) -> None:
        if self.if_running not in get_args(IfRunning):
            raise InvalidValue(f"if_running is allow, reject or replace, not {self.if_running!r}.")
        if self.wire not in WIRES:
            raise InvalidValue(f"wire is {' or '.join(WIRES)}, not {self.wire!r}.")
        if self.idempotency_key is not None:
            check_id(self.idempotency_key.replace("/", "-"), "idempotencyKey")
        check_event_type(self.type)

    def changed(self, options: Mapping[str, Any]) -> Options:
        """These options with some changed. Raises TypeError for unknown names, InvalidValue for wrong values."""
        names = [each.name for each in fields(self)]
        for name in options:
            if name not in names:
                raise TypeError(f"There is no option {name}: {', '.join(names)}.")
        return replace(self, **options)


class Job(Generic[R]):
    """A background function with its arguments and its run, which has begun as pending: to be called once, anywhere.

    It runs in the context in which it was made, without Flask's own: it outlives the request.
    """

    def __init__(
        self, app: Flask, run: Run, function: Callable[..., R], arguments: tuple[Any, ...], named: Any
    ) -> None:
        self.run = run
        self.context = _context_without_flask()
        self._app = app
        self._function = function
        self._arguments = arguments
        self._named = named
        self._lock = threading.Lock()
        self._taken = False

    def __call__(self) -> R | None:
        """Do the work and return what the function returns, or None when the task was stopped. Raises as the function
        does."""
        if not self._take():
            return None
        if inspect.iscoroutinefunction(self._function):
            found: R | None = self.context.run(asyncio.run, self._await())
            return found
        return self.context.run(self._work)

    async def awaited(self) -> R | None:
        """As a call, for an async function, in the event loop that runs already."""
        return await self._await() if self._take() else None

    def abandon(self, error: BaseException | None = None) -> None:
        """It will not be called: the task is cancelled, or ends with the error. Does not wait for the store."""
        if self._take():
            self.run.finish(TaskState.CANCELLED if error is None else TaskState.ERROR, error, wait=0)

    def _take(self) -> bool:
        with self._lock:
            taken, self._taken = self._taken, True
        return not taken

    def _work(self) -> R | None:
        with self._app.app_context(), self.run as run:
            run.check_cancelled()
            return self._function(run, *self._arguments, **self._named)
        return None  # after Cancelled

    async def _await(self) -> Any:
        with self._app.app_context():
            async with self.run as run:
                run.check_cancelled()
                return await self._function(run, *self._arguments, **self._named)  # type: ignore[misc]
        return None


def _context_without_flask() -> Context:
    context = Context()
    for variable, value in copy_context().items():
        if not isinstance(value, (AppContext, RequestContext)):
            context.run(variable.set, value)
    return context


Beginner = Callable[[Callable[..., R], Options, str, "tuple[Any, ...]", "dict[str, Any]"], Job[R]]
Submit = Callable[[Job[Any]], None]


class BackgroundFunction(Generic[P, R]):
    """A function whose first argument is its run. Calling it calls the function; `start` runs it in the background."""

    def __init__(
        self, begin: Beginner[R], submit: Submit, function: Callable[Concatenate[Run, P], R], options: Options
    ) -> None:
        functools.update_wrapper(self, function)
        self._begin = begin
        self._submit = submit
        self._function = function
        self._options = options

    def __call__(self, run: Run, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(run, *args, **kwargs)

    def with_options(self, **options: Any) -> BackgroundFunction[P, R]:
        """The same function started otherwise: session_id, namespace_id, type, wire, if_running, idempotency_key,
        metadata. Raises TypeError for unknown options, InvalidValue for wrong values."""
        return BackgroundFunction(self._begin, self._submit, self._function, self._options.changed(options))

    def start(self, conversation_id: str, *args: P.args, **kwargs: P.kwargs) -> Task:
        """Begin the task as pending, hand it to the pool and return it; needs an app context.

        With a used idempotency key the first task is returned. Raises StoreUnavailable, TaskRunning, SessionConflict,
        NamespaceFull.
        """
        try:
            job = self.job(conversation_id, *args, **kwargs)
        except AlreadyStarted as started:
            return started.task
        task = job.run.task
        self._submit(job)
        return task

    def job(self, conversation_id: str, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Begin the task as pending and return what does its work, for a thread or a pool of one's own.

        Raises as `start` does, and AlreadyStarted.
        """
        return self._begin(self._function, self._options, conversation_id, args, kwargs)


class Pool:
    """The threads in which the background functions of one app run. They do not keep the process alive."""

    def __init__(self, workers: int, eager: bool) -> None:
        self._workers = workers
        self._eager = eager
        self._jobs: SimpleQueue[Job[Any]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._waiting = 0

    def submit(self, job: Job[Any]) -> None:
        """Do the job in one of the threads; in eager mode here and now."""
        if self._eager:
            self._work(job)
            return
        with self._lock:
            self._waiting += 1
            if self._waiting > self._threads and self._threads < self._workers:
                self._start_thread()
        self._jobs.put(job)

    def _start_thread(self) -> None:
        self._threads += 1
        threading.Thread(target=self._run, name=f"sessionstatus-work-{self._threads}", daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                job = self._jobs.get()
                try:
                    self._work(job)
                finally:
                    with self._lock:
                        self._waiting -= 1
        finally:  # SystemExit and its like end the thread; the next job gets a new one
            with self._lock:
                self._threads -= 1
                if self._waiting > self._threads:
                    self._start_thread()

    def _work(self, job: Job[Any]) -> None:
        try:
            job()
        except Exception:  # recorded as the task's error; the traceback belongs in the log
            log.exception("The background task %s failed.", job.run.task_id[:8])
