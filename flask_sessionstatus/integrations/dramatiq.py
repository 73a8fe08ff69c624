"""dramatiq: a message is a task from the moment it is sent, whatever becomes of it.

    broker.add_middleware(tracking.Middleware(flask_app))                                # wherever the broker is made

    summarise.send_with_options(args=(text,), **tracking.track(conversation_id))         # in the web process

In the actor `current_run` emits, tells progress and hears of stops, under the app context. What the actor returns is
the task's result, where that is JSON.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

import dramatiq
from dramatiq.broker import Broker, MessageProxy
from dramatiq.errors import BrokerError
from dramatiq.message import Message
from dramatiq.middleware import SkipMessage
from dramatiq.worker import Worker
from flask import Flask
from flask.ctx import AppContext

from ..errors import AlreadyStarted, Cancelled, InvalidValue, SessionStatusError, StoreUnavailable, TaskRunning
from ..extension import current_sessionstatus
from ..models import TaskState
from ..queues import Work
from ..runs import Run
from ..shutdown import leave_sigterm
from ..state import AppState, state_of
from .results import keep_returned

log = logging.getLogger("flask_sessionstatus")

OPTION = "sessionstatus"


def track(
    conversation_id: str, session_id: str | None = None, type: str = "generation", **options: Any
) -> dict[str, Any]:
    """Begin a task as pending; returns the options of the one message that does its work, for `send_with_options`.

    Options as for `SessionStatus.enqueue`; needs an app context. The ids are in `options["sessionstatus"]`. Raises as
    `SessionStatus.enqueue` does, and AlreadyStarted for a used idempotency key unless its task still waits.
    """
    task = current_sessionstatus().enqueue(conversation_id, session_id, type, **options)
    if task.ticket is None:
        raise AlreadyStarted("The idempotency key was used before.", task, taskId=task.task_id)
    return {OPTION: {"ticket": task.ticket, "session_id": task.session_id, "task_id": task.task_id}}


@dataclass
class Job:
    """A message that a worker's thread has before it; without a run it is not ours to end."""

    message_id: str
    run: Run | None = None
    context: AppContext | None = None
    throws: Any = None
    has_returned: bool = False
    result: Any = None
    error: BaseException | None = None


class Middleware(dramatiq.Middleware):
    """Tracks the messages that carry what `track` gives; to be added last, as `add_middleware` does.

    A task ends when its message is acknowledged or rejected, once other middleware has said whether it comes again.
    """

    def __init__(self, flask_app: Flask) -> None:
        self._app = flask_app
        self._here = threading.local()

    @property
    def _state(self) -> AppState:
        return state_of(self._app)

    @property
    def _job(self) -> Job | None:
        """What this thread has before it."""
        return getattr(self._here, "job", None)

    # Before the actor is called

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if OPTION not in message.options or message.failed:
            return
        job = self._here.job = Job(message.message_id)
        try:
            job.run = Work(self._state.engine, ticket_of(message)).begin()
        except (AlreadyStarted, Cancelled) as error:
            raise SkipMessage(str(error)) from error
        except (StoreUnavailable, TaskRunning) as error:
            # Another worker that has the task may die, the store come back.
            self._send_again(broker, message)
            raise SkipMessage(str(error)) from error
        except SessionStatusError as error:
            log.error("Message %s cannot be worked on: %s", message.message_id, error)
            message.fail()
            raise SkipMessage(str(error)) from error
        job.context = self._app.app_context()
        job.context.push()
        job.run.__enter__()
        self._expect_cancelled(broker, job, message)
        if job.run.cancelled:
            job.error = Cancelled("The task was stopped before it began.", taskId=job.run.task_id)
            raise SkipMessage(str(job.error))

    def _send_again(self, broker: Broker, message: MessageProxy) -> None:
        try:
            broker.enqueue(message, delay=self._state.engine.store.limits.lease)  # type: ignore[arg-type]
        except BrokerError:
            log.exception("Message %s could not be sent again, and is rejected.", message.message_id)
            message.fail()

    @staticmethod
    def _expect_cancelled(broker: Broker, job: Job, message: MessageProxy) -> None:
        """Cancelled is what an actor may throw: no failure that is logged, and none that is tried again."""
        job.throws = message.options.get("throws")
        known = job.throws or broker.get_actor(message.actor_name).options.get("throws") or ()
        message.options["throws"] = (Cancelled, *(known if isinstance(known, tuple) else (known,)))

    # When it has returned

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        # No more than this: a time limit may still strike here.
        job = self._job
        if job is not None:
            job.has_returned, job.result, job.error = True, result, exception

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int | None) -> None:
        job = self._job
        if job is None or job.message_id != message.message_id:
            return
        message.options.pop("throws", None)
        if job.throws is not None:
            message.options["throws"] = job.throws
        if job.run is not None and job.has_returned:  # it is tried again
            job.run.retry((delay or 0) / 1000)
            self._end(job)

    def before_ack(self, broker: Broker, message: MessageProxy) -> None:
        self._conclude(message)

    def before_nack(self, broker: Broker, message: MessageProxy) -> None:
        self._conclude(message)

    def _conclude(self, message: MessageProxy) -> None:
        if OPTION not in message.options or "eta" in message.options:  # one that was delayed is sent on by itself
            return
        job, self._here.job = self._job, None
        try:
            if job is None:
                self._end_unbegun(message)
            elif job.run is not None:
                self._end(job)
        except SessionStatusError as error:
            log.error("The task of message %s was not ended: %s", message.message_id, error)

    def _end_unbegun(self, message: MessageProxy) -> None:
        """End the task of a message that other middleware has failed or skipped."""
        work = Work(self._state.engine, ticket_of(message))
        if message.failed:
            work.watch().end(TaskState.ERROR, "MessageFailed", "The message failed before its work began.")
        else:
            work.stop()

    @staticmethod
    def _end(job: Job) -> None:
        run, error = job.run, job.error
        assert run is not None
        job.run = None
        if error is None:
            keep_returned(run, job.result)
        elif _is_abort(error):
            error = Cancelled("The message was aborted.", taskId=run.task_id)
        try:
            run.__exit__(None if error is None else type(error), error, None)
        finally:
            if job.context is not None:
                job.context.pop(error)

    # The worker

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        leave_sigterm()  # the worker ends its work first
        self._state.notice_several("A dramatiq worker works for this app")

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._state.shutdown()


def ticket_of(message: MessageProxy) -> str:
    """The ticket in a message's options. Raises InvalidValue when there is none."""
    tracked = message.options[OPTION]
    ticket = tracked.get("ticket") if isinstance(tracked, dict) else None
    if not isinstance(ticket, str):
        raise InvalidValue(f'The option "{OPTION}" of a message is what track() gives.')
    return ticket


def _is_abort(error: BaseException) -> bool:
    """Whether it is the Abort of the package dramatiq-abort, which need not be there."""
    return type(error).__name__ == "Abort" and type(error).__module__.startswith("dramatiq_abort")
