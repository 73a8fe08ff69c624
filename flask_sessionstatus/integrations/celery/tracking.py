"""What one Celery app has of the package, in each of its processes."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from celery import Celery, signals
from flask import Flask, has_app_context

from ...errors import ConfigurationError
from ...extension import current_sessionstatus
from ...queues import Work
from ...state import SHUTDOWN, AppState, app_state, state_of
from ..supervision import Supervision
from .messages import headers_of, ticket_of
from .tasks import TrackedRun

ATTRIBUTE = "sessionstatus"


def init(celery_app: Celery, flask_app: Flask | Callable[[], Flask], *, terminate_after: float | None = None) -> None:
    """Track the tasks of a Celery app whose messages carry headers of `track`; call it wherever the app is made.

    `flask_app`, or a function that makes it, says where a worker finds the store. A task that is asked to stop ends
    when it asks `current_run` whether it shall; with `terminate_after` the worker's parent terminates one that still
    runs so many seconds later (prefork and gevent). Raises ConfigurationError when called twice for a Celery app.
    """
    if hasattr(celery_app, ATTRIBUTE):
        raise ConfigurationError("This Celery app is tracked already: call init once.")
    setattr(celery_app, ATTRIBUTE, Tracking(celery_app, flask_app, terminate_after))


def track(
    conversation_id: str, session_id: str | None = None, type: str = "generation", **options: Any
) -> dict[str, str]:
    """Begin a task that waits for its worker, and return the headers for its message: one message, sent in the same app
    context. If it was not sent by the end of that, the task is cancelled.

    Options as for `SessionStatus.enqueue`, so with `delay` for a countdown (s). Raises as that does. With an
    idempotency key the task stays pending also when its message could not be sent: who uses the key again sends it.
    """
    for each in _trackings:
        each.prepare_for_eager()
    task = current_sessionstatus().enqueue(conversation_id, session_id, type, **options)
    return headers_of(task, cancel_unsent=options.get("idempotency_key") is None)


class Tracking:
    """Follows a Celery app by its signals."""

    def __init__(
        self, celery_app: Celery, flask_app: Flask | Callable[[], Flask], terminate_after: float | None
    ) -> None:
        self._celery_app = celery_app
        self._flask_app = flask_app
        self._terminate_after = terminate_after
        self._supervision: Supervision | None = None
        celery_app.on_after_finalize.connect(self._wrap_tasks)
        if celery_app.finalized:
            self._wrap_tasks()
        signals.worker_init.connect(self._begin_worker)
        signals.worker_process_shutdown.connect(self._end_child)
        signals.task_revoked.connect(self._on_revoked)
        _trackings.add(self)

    @property
    def state(self) -> AppState:
        """What the Flask app has of the package. Raises ConfigurationError when it has nothing."""
        if not isinstance(self._flask_app, Flask):
            self._flask_app = self._flask_app()
        return state_of(self._flask_app)

    def _state_for(self, eager: bool) -> AppState:
        """The state of the app for which work is done: what runs eagerly is that of the app that is present."""
        return app_state() if eager and has_app_context() else self.state

    def prepare_for_eager(self) -> None:
        """What runs in place is called without any of the signals by which workers prepare."""
        if self._celery_app.conf.task_always_eager:
            self._celery_app.finalize()
            self._wrap_tasks()

    def _wrap_tasks(self, **_: object) -> None:
        for task in list(self._celery_app.tasks.values()):
            if not isinstance(task.run, TrackedRun):
                task.run = TrackedRun(task, task.run, self._state_for, self._terminate_after)

    def _is_own(self, worker: Any) -> bool:
        return worker.app is self._celery_app

    def _begin_worker(self, sender: Any, **_: object) -> None:
        if not self._is_own(sender):
            return
        from celery.concurrency import get_implementation
        from celery.concurrency.prefork import TaskPool
        from celery.utils.imports import symbol_by_name

        from .parents import Parent, request_class

        state, self._supervision = self.state, Supervision()
        state.notice_several("A Celery worker works for this app")
        atexit.register(self._supervision.close, SHUTDOWN)
        self._wrap_tasks()
        # Threads and greenlets live and die with their worker.
        if issubclass(get_implementation(sender.pool_cls), TaskPool):
            parent = Parent(self._celery_app, state, self._supervision, self._terminate_after)
            for task in self._celery_app.tasks.values():
                task.Request = request_class(symbol_by_name(task.Request), parent)

    def _on_revoked(self, sender: Any, request: Any, **_: object) -> None:
        """A message that will not be worked on, or not any more."""
        ticket = ticket_of(request)
        if not self._is_own(sender) or ticket is None or self._supervision is None:
            return
        work = Work(self.state.engine, ticket)

        def stop() -> None:
            work.stop()

        self._supervision.see_to(stop)

    def _end_child(self, **_: object) -> None:
        if isinstance(self._flask_app, Flask):  # else nothing was made of it, here or before the fork
            self.state.shutdown()


_trackings: WeakSet[Tracking] = WeakSet()
