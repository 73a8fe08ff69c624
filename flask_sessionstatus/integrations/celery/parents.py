"""What a worker's main process knows of its children: it holds their tasks' leases and ends those that died.

Imported in workers only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4
from weakref import ref

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry, Terminated, TimeLimitExceeded
from celery.worker.state import active_requests

from ...errors import InvalidValue
from ...models import TaskState
from ...queues import Work
from ...runs import message_of
from ...state import AppState
from ..supervision import Child, Supervision
from . import tasks
from .messages import PARENT, ticket_of, worker_of


class Parent:
    """The main process of a prefork worker."""

    def __init__(
        self, celery_app: Celery, state: AppState, supervision: Supervision, terminate_after: float | None
    ) -> None:
        self._celery_app = celery_app
        self._state = state
        self._supervision = supervision
        self._terminate_after = terminate_after

    def take(self, request: Any, pid: int) -> Child | None:
        """Look after the child that has accepted a request, until that is done."""
        message = request.request_dict
        try:
            work = Work(self._state.engine, ticket_of(message) or "", worker_of(message, pid))
        except InvalidValue:  # the child says so
            return None
        works = partial(_is_active, ref(request))
        on_stop = None
        if self._terminate_after is not None:
            on_stop = partial(tasks.terminate, self._celery_app, request.id, self._terminate_after, works)
        return Child(self._supervision, work, self._state.settings.heartbeat, works, on_stop)


def _is_active(request: Callable[[], Any]) -> bool:
    found = request()
    return found is not None and found in active_requests


def request_class(base: type, parent: Parent) -> type:
    """The class of a worker's requests, which also tells the parent of what becomes of them."""

    class Request(base):  # type: ignore[misc]
        _child: Child | None = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            ticket = ticket_of(self.request_dict)
            if ticket is not None and ticket.startswith("{"):
                self.request_dict[PARENT] = uuid4().hex

        def on_accepted(self, pid: int, time_accepted: float) -> None:
            super().on_accepted(pid, time_accepted)
            if PARENT in self.request_dict:
                self._child = parent.take(self, pid)

        def reject(self, requeue: bool = False) -> None:
            super().reject(requeue)
            if requeue and self._child is not None:
                self._child.retry()

        def send_event(self, type: str, **fields: Any) -> None:
            super().send_event(type, **fields)
            if type == "task-retried" and self._child is not None:
                self._child.retry(self.task.default_retry_delay)

        def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> None:
            try:
                super().on_failure(exc_info, send_failed_event, return_ok)
            finally:
                if self._child is not None:
                    _tell(self._child, self, _error_of(exc_info), return_ok)

    return Request


def _tell(child: Child, request: Any, error: BaseException, told: bool) -> None:
    """Tell how a child failed: by what it `told` itself, or by its death."""
    if isinstance(error, (Ignore, Reject, Retry)):
        return
    if told:
        child.failed(TaskState.ERROR, type(error).__name__, message_of(error))
    elif isinstance(error, Terminated) and not request._already_cancelled:
        child.died(TaskState.CANCELLED)
    elif isinstance(error, Terminated) and request.task.acks_late and not request.acknowledged:
        child.retry()
    elif isinstance(error, Terminated):
        child.died(TaskState.ERROR, "Shutdown", "The worker was shut down.")
    elif isinstance(error, TimeLimitExceeded):
        child.died(TaskState.ERROR, "TimeLimitExceeded", str(tasks.TimeLimitExceeded(error.args[0])))
    elif isinstance(error, Exception):
        child.died(TaskState.ERROR, type(error).__name__, message_of(error))
    else:
        child.died(TaskState.ERROR, "WorkerLostError", f"The function left its process: {error!r}.")


def _error_of(exc_info: ExceptionInfo) -> BaseException:
    error: BaseException = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error
