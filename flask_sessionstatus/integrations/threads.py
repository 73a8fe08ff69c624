"""Background functions in threads and executors of yours.

    task, future = threads.submit(executor, report, conversation_id, pages)     # report: @sessionstatus.background()
    task, thread = threads.start(report, conversation_id, pages)

In place of `executor.submit` and of a Thread. The task is pending until a thread is free for it; a future that is
cancelled before cancels it, and a stop before that cancels the future.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from functools import wraps
from typing import ParamSpec, TypeVar

from ..background import BackgroundFunction
from ..models import Task

P = ParamSpec("P")
R = TypeVar("R")


def submit(
    executor: Executor, function: BackgroundFunction[P, R], conversation_id: str, *args: P.args, **kwargs: P.kwargs
) -> tuple[Task, Future[R | None]]:
    """Begin the task as pending and hand its work to an executor of threads; the future has what the function returns.

    Needs an app context. Raises as `BackgroundFunction.job` and as the executor does.
    """
    job = function.job(conversation_id, *args, **kwargs)
    task = job.run.task
    try:
        future = executor.submit(job)
    except BaseException as error:
        job.abandon(error)
        raise
    # A job that the executor does not call, for whatever reason, is over once its future is.
    future.add_done_callback(lambda done: job.abandon(None if done.cancelled() else done.exception()))
    job.run.on_cancel(future.cancel)
    return task, future


def start(
    function: BackgroundFunction[P, R], conversation_id: str, *args: P.args, **kwargs: P.kwargs
) -> tuple[Task, threading.Thread]:
    """Begin the task and start a thread that does its work.

    Needs an app context. Raises as `BackgroundFunction.job` does.
    """
    job = function.job(conversation_id, *args, **kwargs)
    task = job.run.task
    thread = threading.Thread(target=job, name=f"sessionstatus-{task.type}-{task.task_id[:8]}")
    try:
        thread.start()
    except BaseException as error:
        job.abandon(error)
        raise
    return task, thread


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """A helper of the present work, for other threads: there too `current_run` is the present run.

    with sessionstatus.run(conversation_id):
        executor.map(threads.carry(read_page), pages)
    """
    present = copy_context()

    @wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        # A copy for each call: a context can be entered once at a time.
        return present.copy().run(function, *args, **kwargs)

    return carried
