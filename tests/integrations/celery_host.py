"""A host whose work Celery does. `BROKER` is its Redis; `FLASK_SESSIONSTATUS_…` says where the store is."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path

import redis
from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from flask import Flask

from flask_sessionstatus import SessionStatus, current_run
from flask_sessionstatus.integrations import celery as tracking

VISIBILITY = 2.0

app = Flask(__name__)
app.config.from_prefixed_env()
sessionstatus = SessionStatus(app, identify=lambda: "u1")
app.register_blueprint(sessionstatus.create_blueprint(), url_prefix="/api/v1")

celery_app = Celery("host", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
celery_app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": VISIBILITY},
    task_publish_retry=False,
    worker_prefetch_multiplier=1,
)
after = os.environ.get("TERMINATE_AFTER")
tracking.init(celery_app, app, terminate_after=float(after) if after else None)

signs = redis.Redis.from_url(os.environ["BROKER"])


def sign(name: str) -> int:
    """Leave a sign that somebody was here; says how often that was."""
    return int(signs.incr(name))  # type: ignore[arg-type]


@celery_app.task
def plain(value: object = None) -> object:
    """A task that knows nothing of the package."""
    return value


@celery_app.task
def emitting(count: int) -> dict[str, int]:
    for number in range(1, count + 1):
        current_run.emit("number", {"number": number})
        current_run.progress(number, count)
    return {"count": count}


@celery_app.task
def giving_a_result_of_its_own() -> str:
    current_run.result({"for": "the page"})
    return "for Celery"


@celery_app.task
def not_json() -> complex:
    return 1j


@celery_app.task(ignore_result=True)
def not_json_ignored() -> object:
    return object()


@celery_app.task
def raising(message: str) -> None:
    current_run.emit("number", {"number": 1})
    raise ValueError(message)


@celery_app.task
def leaving(code: int) -> None:
    current_run.emit("number", {"number": 1})
    sys.exit(code)


@celery_app.task
def working(name: str, seconds: float) -> str:
    """Work for so long, or until somebody asks to stop; leaves the sign `name` when it has begun."""
    current_run.emit("number", {"number": os.getpid()})
    current_run.flush(5)
    sign(name)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        current_run.check_cancelled()
        time.sleep(0.02)
    return "done"


@celery_app.task
def deaf(name: str, seconds: float) -> str:
    """Work for so long, whoever asks to stop."""
    current_run.emit("number", {"number": os.getpid()})
    current_run.flush(5)
    sign(name)
    time.sleep(seconds)
    return "done"


class Dying(Task):
    def before_start(self, *_: object) -> None:
        os.kill(os.getpid(), 9)


@celery_app.task(base=Dying)
def dying_before() -> None:
    """Its process is killed before its function is called."""


@celery_app.task
def limited(seconds: float, catch: bool) -> str:
    current_run.emit("number", {"number": 1})
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        if not catch:
            raise
        return "what there was"
    return "done"


@celery_app.task
def holding_the_interpreter(seconds: float) -> None:
    """One call into C that takes so long, and beside which no Python of this process runs."""
    current_run.emit("number", {"number": 1})
    current_run.flush(5)
    ctypes.PyDLL(None).usleep(round(seconds * 1_000_000))


@celery_app.task
def computing(seconds: float) -> None:
    """Work that never pauses, in Python."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@celery_app.task(bind=True, max_retries=2)
def retrying(self: Task, name: str, fail: int, countdown: float = 0.0) -> int:
    """Fail so many times before it works."""
    current_run.emit("number", {"number": current_run.attempt})
    times = sign(name)
    if times <= fail:
        raise self.retry(exc=ConnectionError(f"time {times}"), countdown=countdown)
    return times


@celery_app.task(autoretry_for=(ConnectionError,), retry_backoff=False, default_retry_delay=0)
def retried(name: str, fail: int) -> int:
    times = sign(name)
    if times <= fail:
        raise ConnectionError(f"time {times}")
    return times


@celery_app.task(bind=True)
def retrying_without_raising(self: Task, name: str) -> int:
    times = sign(name)
    if times == 1:
        self.retry(countdown=0, throw=False)
    return times


@celery_app.task(bind=True)
def replacing(self: Task, value: int) -> None:
    current_run.emit("number", {"number": 1})
    raise self.replace(plain.s(value))


@celery_app.task
def ignoring() -> None:
    raise Ignore("there was nothing to do")


@celery_app.task(acks_late=True)
def rejecting(name: str, requeue: bool) -> str:
    if sign(name) == 1:
        raise Reject("not by me", requeue=requeue)
    return "done"


@celery_app.task(acks_late=True, reject_on_worker_lost=True)
def dying_once(name: str) -> int:
    """Kill the own process the first time."""
    times = sign(name)
    current_run.emit("number", {"number": times})
    current_run.flush(5)
    if times == 1:
        os.kill(os.getpid(), 9)
    return times


@celery_app.task(acks_late=True)
def working_late(name: str, seconds: float) -> str:
    return working.run(name, seconds)  # type: ignore[no-any-return]


@celery_app.task(bind=True)
def waiting_for(self: Task, path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.02)
    return "done"
