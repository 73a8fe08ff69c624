"""Working on a tracked task: in the process, thread or greenlet in which Celery runs its function."""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from threading import Timer
from typing import Any, NoReturn

from celery import Task
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry

from ...concurrency import is_cooperative
from ...errors import (
    AlreadyStarted,
    Cancelled,
    InvalidValue,
    NotFound,
    SessionStatusError,
    StoreUnavailable,
    TaskRunning,
)
from ...queues import Work
from ...runs import Run
from ...state import AppState
from .messages import Job, jobs, mark_sent, ticket_of, worker_of

log = logging.getLogger("flask_sessionstatus")

HANDOVER = 2.0
POLL = 0.1
_TAKEN = "sessionstatus_taken"


class TimeLimitExceeded(Exception):
    """Celery's error of this name, as a sentence."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The time limit of {seconds:g} s was exceeded.")


class TrackedRun:
    """A task's `run`: where the message carries a ticket, its function is worked on as the task of that ticket."""

    def __init__(
        self, task: Task, run: Callable[..., Any], state: Callable[[bool], AppState], terminate_after: float | None
    ) -> None:
        functools.update_wrapper(self, run)
        self._task = task
        self._run = run
        self._state = state
        self._terminate_after = terminate_after

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        request = self._task.request
        ticket = ticket_of(request)
        if ticket is None or request.called_directly or request.get(_TAKEN):
            return self._run(*args, **kwargs)
        setattr(request, _TAKEN, True)
        return self._work(request, ticket, partial(self._run, *args, **kwargs))

    def _work(self, request: Context, ticket: str, call: Callable[[], Any]) -> Any:
        worker = None if request.is_eager else worker_of(request, os.getpid())
        run = self._take_up(request, Work(self._state(request.is_eager).engine, ticket, worker))
        job = jobs[request.id] = Job(ticket, run)
        mark_sent(ticket)
        try:
            if self._terminate_after is not None and worker is None and is_cooperative():
                works = partial(is_worked_on, request.id)
                run.on_cancel(partial(terminate, self._task.app, request.id, self._terminate_after, works))
            value = call()
        except BaseException as error:
            _leave(job, error, watched=worker is not None)
            if isinstance(error, Cancelled):
                self._revoke(request, error)
            raise
        finally:
            del jobs[request.id]
        if value is not None and not run.has_result:
            try:
                run.result(value)
            except InvalidValue as error:
                log.warning("What task %s returned is not kept as its result: %s", run.task_id[:8], error)
        run.__exit__(None, None, None)
        return value

    # Before it begins

    def _take_up(self, request: Context, work: Work) -> Run:
        until = time.monotonic() + HANDOVER
        while True:
            try:
                return work.__enter__()
            except TaskRunning as error:
                # The message of a retry may come before the attempt that sent it has ended.
                if time.monotonic() >= until:
                    self._put_back(request, work.lease, error)
                time.sleep(POLL)
            except StoreUnavailable as error:
                self._put_back(request, work.lease / 2, error)
            except AlreadyStarted as error:
                log.info("Message %s is dropped: %s", request.id, error)
                raise Ignore(str(error)) from error
            except NotFound as error:
                log.error(
                    "Message %s is dropped: %s SESSIONSTATUS_MAX_PENDING_AGE is for how long one may wait.",
                    *(request.id, error),
                )
                self._revoke(request, error)
            except Cancelled as error:
                self._revoke(request, error)

    def _put_back(self, request: Context, delay: float, error: SessionStatusError) -> NoReturn:
        """Send the message again, for later: another worker that has the task may die, or the store come back."""
        if request.is_eager:
            raise error
        log.info("Message %s comes again in %g s: %s", request.id, delay, error)
        self._task.signature_from_request(request, countdown=delay, retries=request.retries).apply_async()
        raise Ignore(str(error)) from error

    def _revoke(self, request: Context, error: SessionStatusError) -> NoReturn:
        """Let Celery know the task as revoked."""
        if not request.is_eager:
            ignored = request.ignore_result or self._task.ignore_result
            self._task.backend.mark_as_revoked(request.id, str(error), request, store_result=not ignored)
        raise Ignore(str(error)) from error


def _leave(job: Job, error: BaseException, watched: bool) -> None:
    """End the task as its function ended, in the words of our own runs; or leave it to the parent."""
    run = job.run
    known: BaseException | None = error
    if isinstance(error, Retry) or (isinstance(error, Reject) and error.requeue):
        if not job.passed_on:
            run.retry()
    elif isinstance(error, Reject):
        known = error.reason if isinstance(error.reason, Exception) else error
    elif isinstance(error, Ignore):
        known = error if job.passed_on else Cancelled(f"The task gave itself up: {error}")
    elif _is_time_limit(error):
        known = TimeLimitExceeded(getattr(error, "seconds", 0))
    elif not isinstance(error, Exception) and run.cancelled:
        known = Cancelled("The task was asked to stop.")
    elif not isinstance(error, Exception) and watched:
        # This process is ending: only the parent knows whether a time limit, a revoke or the function itself did it.
        run.leave()
        return
    assert known is not None
    run.__exit__(type(known), known, known.__traceback__)


def _is_time_limit(error: BaseException) -> bool:
    """Whether this is what Celery raises in a greenlet that has reached its time limit."""
    gevent = sys.modules.get("gevent")
    return gevent is not None and isinstance(error, gevent.Timeout)


def is_worked_on(message_id: str) -> bool:
    """Whether the message is worked on in this process."""
    return message_id in jobs


def terminate(celery_app: Any, message_id: str, after: float, works: Callable[[], bool]) -> None:
    """Let the worker's parent terminate what still works on a message `after` s from now."""

    def revoke() -> None:
        if works():
            celery_app.control.revoke(message_id, terminate=True)

    timer = Timer(after, revoke)
    timer.daemon = True
    timer.start()
