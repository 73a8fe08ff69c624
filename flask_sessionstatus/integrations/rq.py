"""RQ: a job is a task from the moment it is enqueued, whatever becomes of it.

    queue.enqueue(summarise, text, meta=tracking.track(conversation_id))         # in the web process

    rq worker --worker-class flask_sessionstatus.integrations.rq.Worker          # FLASK_APP names the app

In the job `current_run` emits, tells progress and hears of stops, under the app context. What the job returns is the
task's result, where that is JSON.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from tempfile import TemporaryFile
from typing import IO, Any

import rq
from flask import Flask
from flask.cli import ScriptInfo
from redis.exceptions import RedisError
from rq.exceptions import InvalidJobOperation
from rq.job import Job, JobStatus, Retry
from rq.worker import BaseWorker

from ..engine import Engine
from ..errors import (
    AlreadyStarted,
    Cancelled,
    ConfigurationError,
    InvalidValue,
    NotFound,
    SessionStatusError,
    StoreUnavailable,
    TaskRunning,
)
from ..extension import SessionStatus, current_sessionstatus
from ..models import Json, TaskState, to_json
from ..queues import Work
from ..runs import Run
from ..state import EXTENSION, state_of
from ..stores.base import TaskRef
from ..streaming.rest import Rest
from ..tickets import Ticket
from ..watches import Watch
from .results import keep_returned
from .rq_cancelled import CancelledJobs

log = logging.getLogger("flask_sessionstatus")

META = "sessionstatus"
POLL = 0.1
STORED = "stored"

_NOT_WAITING = (JobStatus.STARTED, JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)


class MaxRetriesExceeded(Exception):
    """The job returned a Retry once more than it may."""


def track(
    conversation_id: str,
    session_id: str | None = None,
    type: str = "generation",
    *,
    terminate_after: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Begin a task as pending; returns the `meta` of the one job that does its work, to which other keys may be added.

    Options as for `SessionStatus.enqueue`; needs an app context. With `terminate_after` a job that is asked to stop and
    still runs so many s later is killed with its work-horse. The ids are in `meta["sessionstatus"]`. Raises as
    `SessionStatus.enqueue` does, and AlreadyStarted for a used idempotency key unless its task still waits.
    """
    task = current_sessionstatus().enqueue(conversation_id, session_id, type, **options)
    if task.ticket is None:
        raise AlreadyStarted("The idempotency key was used before.", task, taskId=task.task_id)
    ids = {"session_id": task.session_id, "task_id": task.task_id}
    return {META: {"ticket": task.ticket, "terminate_after": terminate_after, **ids}}


def find_app() -> Flask:
    """The app that `FLASK_APP` names, as `flask` finds it; without it one made from `FLASK_SESSIONSTATUS_*`.

    Raises ConfigurationError when it has no SessionStatus.
    """
    path = os.environ.get("FLASK_APP")
    if not path:
        app = Flask("flask_sessionstatus")
        app.config.from_prefixed_env()
        SessionStatus(app)
        return app
    app = ScriptInfo(app_import_path=path).load_app()
    if EXTENSION not in app.extensions:
        raise ConfigurationError(f"The app of FLASK_APP={path} has no SessionStatus: call init_app(app).")
    return app


class _Tracking(BaseWorker):
    """What both workers do: take up a task before its job is run, and end it as RQ ends the job."""

    _app: Flask | None = None
    _cancelled_jobs: CancelledJobs | None = None
    _refusal: SessionStatusError | None = None
    _failure: BaseException | None = None

    @property
    def app(self) -> Flask:
        """The Flask app whose tasks these are."""
        if self._app is None:
            self._app = find_app()
        return self._app

    @property
    def _engine(self) -> Engine:
        return state_of(self.app).engine

    def bootstrap(self, *args: Any, **options: Any) -> None:
        # The app sets a handler of SIGTERM: that must come before RQ's own, which takes its place.
        limits = self._engine.store.limits
        interval, since = limits.heartbeat / 1000, limits.max_pending_age / 1000
        self._cancelled_jobs = CancelledJobs(self.queues, self._stop_task, interval, since)
        self._cancelled_jobs.start()
        super().bootstrap(*args, **options)

    def teardown(self) -> None:
        if self._cancelled_jobs is not None:
            self._cancelled_jobs.close()
        super().teardown()

    def _stop_task(self, job: Job) -> None:
        with suppress(InvalidValue, NotFound, Cancelled):  # it is none of ours, or long gone
            Work(self._engine, ticket_of(job)).stop()

    # Before the job is run

    def execute_job(self, job: Job, queue: rq.Queue) -> None:
        self._refusal = None
        if META in job.meta:
            try:
                self._wait_to_take_up(job, queue)
            except (AlreadyStarted, Cancelled) as error:
                self.log.info("Job %s is not run: %s", job.id, error)
                _drop(job, queue)
                return
            except (StoreUnavailable, TaskRunning) as error:
                self.log.warning("Job %s goes back to its queue: %s", job.id, error)
                _put_back(job, queue, at_front=False)
                return
            except SessionStatusError as error:
                self._refusal = error
        self._execute(job, queue)

    def _wait_to_take_up(self, job: Job, queue: rq.Queue) -> None:
        """Take up the task of a job. While the store is away, or another worker is at it, wait: for one lease, so that
        other jobs have their turn."""
        until = None
        try:
            while True:
                try:
                    return self._take_up_now(job)
                except (StoreUnavailable, TaskRunning) as error:
                    if until is None:
                        self.log.info("Job %s waits: %s", job.id, error)
                        until = time.monotonic() + self._engine.store.limits.lease / 1000
                    if time.monotonic() >= until:
                        raise
                time.sleep(POLL)
        except SessionStatusError:
            raise
        except BaseException:  # the worker was told to end meanwhile
            _put_back(job, queue, at_front=True)
            raise

    def _take_up_now(self, job: Job) -> None:
        ticket = ticket_of(job)
        try:
            self._take_up(Work(self._engine, ticket))
        except AlreadyStarted:
            if not getattr(job, "repeat_intervals", None):
                raise
            self._take_up(Work(self._engine, self._repeated(ticket)))

    def _repeated(self, ticket: str) -> str:
        """The ticket of a new task in the same session: for a job that RQ repeats after it has completed."""
        first = Ticket.parse(ticket)
        with self.app.app_context():
            task = current_sessionstatus().enqueue(
                first.session.conversation_id,
                first.session.session_id,
                first.task.type,
                wire=first.task.wire,
                namespace_id=first.session.namespace_id,
            )
        return task.ticket or task.task_id

    def _take_up(self, work: Work) -> None:
        """Begin an attempt of a task."""
        raise NotImplementedError

    def _execute(self, job: Job, queue: rq.Queue) -> None:
        super().execute_job(job, queue)

    # The job, in the work-horse where there is one

    def _run_here(self) -> Run | None:
        """The run of the task that was taken up; None for a job that is not tracked."""
        raise NotImplementedError

    def perform_job(self, job: Job, queue: rq.Queue, *execution: Any) -> bool:
        if self._refusal is not None:
            _replace_function(job, _raiser(self._refusal))
            return super().perform_job(job, queue, *execution)
        run = self._run_here()
        if run is None:
            return super().perform_job(job, queue, *execution)
        try:
            with self.app.app_context():
                return self._perform(run, job, queue, *execution)
        finally:
            self._leave(run)

    def _perform(self, run: Run, job: Job, queue: rq.Queue, *execution: Any) -> bool:
        call = Call(job, run)
        self._failure = None
        done = False
        failure: BaseException | None = None
        try:
            with run:
                _replace_function(job, partial(self._call, call))
                done = super().perform_job(job, queue, *execution)
                if done and not isinstance(call.value, Retry):
                    keep_returned(run, call.value)
                elif _waits_again(job):
                    run.retry(_delay_of(job, call.value))
                else:
                    failure = call.error or self._failure or MaxRetriesExceeded("The job asked to be tried too often.")
                    raise failure
        except BaseException as error:
            if error is not failure:
                raise
        return done

    def _call(self, call: Call) -> Any:
        try:
            return call()
        except Cancelled:
            # To RQ it is stopped, which is no failure that is tried again.
            self._stopped_job_id = call.job.id
            raise

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        self._failure = exc_info[1]
        super().handle_exception(job, *exc_info)

    def _leave(self, run: Run) -> None:
        """The task has ended here, or was left to its queue."""


class Worker(_Tracking, rq.Worker):
    """RQ's worker, which forks a work-horse for each job. Options as for `rq.Worker`.

    The parent renews the lease as well, and ends the task of a work-horse that is gone.
    """

    _watch: Watch | None = None
    _said: IO[str] | None = None
    _wait_status: int | None = None

    def bootstrap(self, *args: Any, **options: Any) -> None:
        if self._engine.store.name == "memory":
            raise ConfigurationError("A worker needs the Redis of the web processes: set SESSIONSTATUS_STORAGE_URI.")
        super().bootstrap(*args, **options)

    def _take_up(self, work: Work) -> None:
        self._watch = work.watch()

    def _run_here(self) -> Run | None:
        return None if self._watch is None else self._watch.run(self._engine)

    def _execute(self, job: Job, queue: rq.Queue) -> None:
        watch = self._watch
        if watch is None:
            super()._execute(job, queue)
            return
        seconds = job.meta[META].get("terminate_after")
        killer = threading.Timer(seconds or 0, self._kill_horse_of, [job])
        if seconds is not None:
            watch.on_cancel(killer.start)
        self._wait_status = None
        with TemporaryFile("w+", encoding="utf-8") as self._said:
            try:
                super()._execute(job, queue)
            finally:
                killer.cancel()
                self._conclude(watch, job)
                self._watch = self._said = None

    def _kill_horse_of(self, job: Job) -> None:
        """As `send_stop_job_command` has it done."""
        pid = self.horse_pid
        if pid:
            self._stopped_job_id = job.id
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        self._wait_status = ret_val
        super().handle_work_horse_killed(job, retpid, ret_val, rusage)

    def _leave(self, run: Run) -> None:
        """Tell the parent what is not stored: the horse ends at once."""
        if self._said is not None:
            self._said.write(str(run.hand_over() or STORED))
            self._said.flush()

    def _conclude(self, watch: Watch, job: Job) -> None:
        """End a task as its horse said; where that could say nothing, as RQ has ended the job."""
        if not self._horse_is_gone():  # this worker gives up; the horse goes on, and ends its task itself
            watch.leave()
            return
        assert self._said is not None
        self._said.seek(0)
        said = self._said.read()
        if said == STORED:
            watch.leave()
            return
        if said:
            with suppress(ValueError):  # it died while it wrote
                watch.take_over(Rest.parse(said))
                return
        status = _status_of(job)
        if status is JobStatus.FINISHED:
            watch.end(TaskState.COMPLETED, result=_value_of(job))
        elif status in (JobStatus.STOPPED, JobStatus.CANCELED) or watch.cancelled:
            watch.end(TaskState.CANCELLED)
        elif _waits_again(job):
            watch.retry(_delay_of(job))
        else:
            watch.end(TaskState.ERROR, "WorkHorseTerminated", self._cause())

    def _horse_is_gone(self) -> bool:
        if not self.horse_pid:
            return True
        try:
            return os.waitpid(self.horse_pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return True

    def _cause(self) -> str:
        status = self._wait_status
        if status is None:
            return "The work-horse is gone."
        if os.WIFSIGNALED(status):
            return f"The work-horse was killed by signal {os.WTERMSIG(status)}."
        return f"The work-horse exited with status {os.waitstatus_to_exitcode(status)}."


class SimpleWorker(_Tracking, rq.SimpleWorker):
    """RQ's worker that does its jobs in its own process. Options as for `rq.SimpleWorker`."""

    _run: Run | None = None

    def _take_up(self, work: Work) -> None:
        self._run = work.begin()

    def _run_here(self) -> Run | None:
        return self._run

    def _leave(self, run: Run) -> None:
        self._run = None

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Ask the job to stop: there is no work-horse that could be killed."""
        run = self._run
        if run is not None:
            self._engine.store.cancel(TaskRef(run.conversation_id, run.session_id, run.task_id))


class Call:
    """The call of a job's function for its run: what came of it, whatever RQ makes of that afterwards."""

    def __init__(self, job: Job, run: Run) -> None:
        self.job = job
        self.value: Any = None
        self.error: BaseException | None = None
        self._run = run
        self._perform = job.perform

    def __call__(self) -> Any:
        try:
            self._run.check_cancelled()
            self.value = self._perform()
        except BaseException as error:
            self.error = error
            raise
        return self.value


def ticket_of(job: Job) -> str:
    """The ticket in a job's `meta`. Raises InvalidValue when there is none."""
    tracked = job.meta.get(META)
    ticket = tracked.get("ticket") if isinstance(tracked, dict) else None
    if not isinstance(ticket, str):
        raise InvalidValue(f'The meta of a job holds what track() gives under "{META}".')
    return ticket


def _replace_function(job: Job, call: Callable[[], Any]) -> None:
    job.perform = call  # type: ignore[method-assign]


def _raiser(error: Exception) -> Callable[[], Any]:
    def perform() -> Any:
        raise error

    return perform


def _value_of(job: Job) -> Json:
    """What the job returned, where that is JSON and can be had."""
    try:
        value: Json = job.return_value(refresh=True)
        to_json(value)
    except InvalidValue:
        return None
    except Exception:  # it is unpickled, and that may do anything
        log.exception("What job %s returned cannot be read.", job.id)
        return None
    return value


def _status_of(job: Job) -> JobStatus | None:
    """What RQ says of the job now; None when it is gone, or RQ's Redis is."""
    try:
        return job.get_status(refresh=True)
    except (InvalidJobOperation, RedisError):
        return None


def _waits_again(job: Job) -> bool:
    """Whether RQ has put the job into a queue again, or keeps it for one."""
    status = _status_of(job)
    return status is not None and status not in _NOT_WAITING


def _delay_of(job: Job, returned: Any = None) -> float:
    """For how long RQ may hold the job back (s)."""
    intervals = returned.intervals if isinstance(returned, Retry) else job.retry_intervals
    return float(max(intervals or [0]))


def _drop(job: Job, queue: rq.Queue) -> None:
    with suppress(InvalidJobOperation):  # it was cancelled in RQ
        job.cancel()
    _forget_delivery(job, queue)


def _put_back(job: Job, queue: rq.Queue, at_front: bool) -> None:
    queue.push_job_id(job.id, at_front=at_front)
    _forget_delivery(job, queue)


def _forget_delivery(job: Job, queue: rq.Queue) -> None:
    """Take the job from the list of those that RQ has given to a worker and that have not begun."""
    queue.connection.lrem(queue.intermediate_queue_key, 1, job.id)
