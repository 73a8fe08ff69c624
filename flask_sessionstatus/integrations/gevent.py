"""Background functions in greenlets of yours.

    task, greenlet = gevent.spawn(report, conversation_id, pages)               # report: @sessionstatus.background()
    task, greenlet = gevent.submit(pool, report, conversation_id, pages)

In place of `gevent.spawn` and of a pool's `spawn`. A greenlet that is killed, before it began or later, is cancelled.
"""

from __future__ import annotations

from typing import ParamSpec, Protocol, TypeVar

import gevent
from gevent import Greenlet

from ..background import BackgroundFunction, Job
from ..models import Task

P = ParamSpec("P")
R = TypeVar("R")


class Spawner(Protocol):
    """What spawns: gevent itself, or a Pool or Group of it."""

    def spawn(self, function: Job[R], /) -> Greenlet: ...


def spawn(
    function: BackgroundFunction[P, R], conversation_id: str, *args: P.args, **kwargs: P.kwargs
) -> tuple[Task, Greenlet]:
    """Begin the task and spawn a greenlet that does its work; its value is what the function returns.

    Needs an app context. Raises as `BackgroundFunction.job` does.
    """
    return submit(gevent, function, conversation_id, *args, **kwargs)


def submit(
    pool: Spawner, function: BackgroundFunction[P, R], conversation_id: str, *args: P.args, **kwargs: P.kwargs
) -> tuple[Task, Greenlet]:
    """As spawn, in a Pool or Group; while a pool is full it waits, and the task is pending."""
    job = function.job(conversation_id, *args, **kwargs)
    task = job.run.task
    try:
        greenlet = pool.spawn(job)
    except BaseException as error:
        job.abandon(error)
        raise
    greenlet.link(lambda dead: job.abandon(dead.exception))
    return task, greenlet
