"""Contenders for one task, let go at the same moment, again and again: in the threads of one process, or of several."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Protocol

import redis
from harness import LEASE_MS, LUA_CLOCK, START, Job, a_session, a_task

from flask_sessionstatus.stores.base import Begun, Change, End, Limits, Store
from flask_sessionstatus.stores.redis import RedisStore, connect

WAIT = 30.0
JITTER = 0.0002
TOKEN = "token"

SetClock = Callable[[int], object]
Outcome = tuple[str, ...]


class Gate(Protocol):
    """A barrier, of threads or of processes."""

    def wait(self, timeout: float | None = None) -> int: ...


def job_of(store: Store, number: int, epoch: int) -> Job:
    """The task of one race, which has begun, in the hands of somebody who may append to it."""
    session, task = a_session(f"s{number}", f"c{number}"), a_task(f"t{number}", token=TOKEN)
    return Job(store, Begun(epoch, 0, START, START, START, 1), session, task)


def deadline_of(number: int) -> int:
    """When the lease of a race's task runs out: each one ms after the one before."""
    return START + number + LEASE_MS


# What a contender does; it tells what it was told


def complete(job: Job, set_clock: SetClock) -> Outcome:
    return (job.end(result='"mine"').verdict.value,)


def fail(job: Job, set_clock: SetClock) -> Outcome:
    """End otherwise, and later in the stream."""
    events = [("token", '{"text":"a"}'), ("end", '{"state":"error"}')]
    return (job.append(events, end=End("error", "Other", "Another end")).verdict.value,)


def cancel(job: Job, set_clock: SetClock) -> Outcome:
    task = job.cancel()
    assert task is not None
    return task.state.value, str(task.finished_at)


def expire(job: Job, set_clock: SetClock) -> Outcome:
    """Let the lease run out, and look at the task."""
    set_clock(deadline_of(int(job.ref.task_id[1:])))
    page = job.page()
    assert page is not None
    return page.task.state.value, str(page.task.finished_at)


def progress(job: Job, set_clock: SetClock) -> Outcome:
    return (job.append(change=Change(running=True, current=99, message="late")).verdict.value,)


def delete(job: Job, set_clock: SetClock) -> Outcome:
    return (str(job.store.delete_session(job.ref.session_id)),)


def work(job: Job, set_clock: SetClock) -> Outcome:
    """Append, beat and end."""
    return tuple(answer.verdict.value for answer in (job.append(["a"]), job.beat(), job.end(result="1")))


SIDES = {side.__name__: side for side in (complete, fail, cancel, expire, progress, delete, work)}


def contend(
    name: str, store: Store, epochs: Sequence[int], gate: Gate, set_clock: SetClock, outcomes: list[Outcome]
) -> None:
    """One contender in all races: each begins and ends at the gate."""
    chance = random.Random()
    for number, epoch in enumerate(epochs):
        job = job_of(store, number, epoch)
        pause = chance.uniform(0, JITTER)
        gate.wait(WAIT)
        time.sleep(pause)
        outcomes.append(SIDES[name](job, set_clock))
        gate.wait(WAIT)


def contend_in_threads(
    names: Sequence[str], store: Store, epochs: Sequence[int], gate: Gate, set_clock: SetClock
) -> Callable[[], list[list[Outcome]]]:
    """A thread for each contender; the function returned waits for them and gives what each was told, race by race."""
    told: list[list[Outcome]] = [[] for _ in names]
    threads = [
        threading.Thread(target=contend, args=(name, store, epochs, gate, set_clock, outcomes), daemon=True)
        for name, outcomes in zip(names, told)
    ]
    for thread in threads:
        thread.start()

    def wait() -> list[list[Outcome]]:
        for thread in threads:
            thread.join(WAIT)
        return told

    return wait


def contend_in_process(url: str, gate: Gate, orders: Connection) -> None:
    """The main function of a process: each order names the contenders and the epochs of the tasks; the answer is what
    they were told."""
    client = redis.Redis.from_url(url, socket_timeout=5)
    store = RedisStore(connect(url, {}), Limits(), clock=LUA_CLOCK)
    while order := orders.recv():
        names, epochs = order
        wait = contend_in_threads(names, store, epochs, gate, lambda now: client.set("test:clock", now))
        orders.send(wait())
    store.close()
    client.close()
