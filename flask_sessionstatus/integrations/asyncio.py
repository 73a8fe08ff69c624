"""Background functions in coroutines and executors of an event loop of yours.

    task, running = await asyncio.create_task(answer, conversation_id, question)    # answer: an async function
    task, future = await asyncio.submit(executor, report, conversation_id, pages)

In place of `create_task` and of the loop's `run_in_executor`. A coroutine that is cancelled is recorded as cancelled
and raises on; a stop cancels it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar

from ..background import BackgroundFunction, Job
from ..models import Task
from ..runs import see_through

P = ParamSpec("P")
R = TypeVar("R")


async def create_task(
    function: BackgroundFunction[P, Coroutine[Any, Any, R]],
    conversation_id: str,
    *args: P.args,
    **kwargs: P.kwargs,
) -> tuple[Task, asyncio.Task[R | None]]:
    """Begin the task and create an asyncio.Task of its async function.

    Needs an app context. Raises as `BackgroundFunction.job` does.
    """
    job = await _begin(function, conversation_id, *args, **kwargs)
    task = job.run.task
    running = job.context.run(asyncio.create_task, job.awaited())
    running.add_done_callback(lambda done: job.abandon(None if done.cancelled() else done.exception()))
    return task, running  # type: ignore[return-value]


async def submit(
    executor: Executor | None,
    function: BackgroundFunction[P, R],
    conversation_id: str,
    *args: P.args,
    **kwargs: P.kwargs,
) -> tuple[Task, asyncio.Future[R | None]]:
    """Begin the task and run its function in an executor of threads; None is the loop's own.

    Needs an app context. Raises as `BackgroundFunction.job` and as the executor does.
    """
    job = await _begin(function, conversation_id, *args, **kwargs)
    task = job.run.task
    try:
        future = asyncio.get_running_loop().run_in_executor(executor, job)
    except BaseException as error:
        job.abandon(error)
        raise
    future.add_done_callback(lambda done: job.abandon(None if done.cancelled() else done.exception()))
    return task, future


async def _begin(function: BackgroundFunction[P, R], conversation_id: str, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
    """Begin the task without holding the loop up; what began is not left behind when the coroutine is cancelled."""
    begun: list[Job[R]] = []
    try:
        await see_through(lambda: begun.append(function.job(conversation_id, *args, **kwargs)))
    except asyncio.CancelledError:
        for job in begun:
            job.abandon()
        raise
    return begun[0]
