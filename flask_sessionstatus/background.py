"""`@sessionstatus.background`: a function that runs in a thread pool, under the app context, as a task."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flask import Flask

from .models import Json, Task
from .runs import IfRunning, Run
from .sessions import UNSET

if TYPE_CHECKING:
    from typing import Concatenate

    from typing_extensions import ParamSpec

    from .extension import SessionStatus

    P = ParamSpec("P")
else:
    P = TypeVar("P")

R = TypeVar("R")

log = logging.getLogger("flask_sessionstatus")

Job = Callable[[], None]


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


class BackgroundFunction(Generic[P, R]):
    """A function whose first argument is its run. Calling it calls the function; `start` runs it in the background."""

    def __init__(self, extension: SessionStatus, function: Callable[Concatenate[Run, P], R], options: Options) -> None:
        functools.update_wrapper(self, function)
        self._extension = extension
        self._function = function
        self._options = options

    def __call__(self, run: Run, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(run, *args, **kwargs)

    def with_options(self, **options: Any) -> BackgroundFunction[P, R]:
        """The same function started otherwise: session_id, namespace_id, type, wire, if_running, idempotency_key,
        metadata."""
        return BackgroundFunction(self._extension, self._function, replace(self._options, **options))

    def start(self, conversation_id: str, *args: P.args, **kwargs: P.kwargs) -> Task:
        """Begin the task as pending, hand it to the pool and return it; needs an app context.

        With a used idempotency key the first task is returned. Raises StoreUnavailable, TaskRunning, SessionConflict,
        NamespaceFull.
        """
        return self._extension.start(self._function, self._options, conversation_id, args, kwargs)


class Pool:
    """The threads in which the background functions of one app run. They do not keep the process alive."""

    def __init__(self, app: Flask, workers: int, eager: bool) -> None:
        self._app = app
        self._workers = workers
        self._eager = eager
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._waiting = 0

    def submit(self, run: Run, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the function as the task of `run`, which has begun as pending."""
        job = functools.partial(self._work, run, function, args, kwargs)
        if self._eager:
            job()
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
                    job()
                finally:
                    with self._lock:
                        self._waiting -= 1
        finally:  # SystemExit and its like end the thread; the next job gets a new one
            with self._lock:
                self._threads -= 1
                if self._waiting > self._threads:
                    self._start_thread()

    def _work(self, run: Run, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            with self._app.app_context(), run:
                run.check_cancelled()
                function(run, *args, **kwargs)
        except Exception:  # recorded as the task's error; the traceback belongs in the log
            log.exception("The background task %s failed.", run.task_id[:8])
