"""F23: a worker whose store is in its own memory cannot know of what the web processes began, and says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import dramatiq
import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from dramatiq.brokers.stub import StubBroker
from flask import Flask
from harness import NOWHERE

from flask_sessionstatus import SessionStatus
from flask_sessionstatus.integrations import celery as celery_tracking
from flask_sessionstatus.integrations import dramatiq as dramatiq_tracking

Work = Callable[[Flask], None]


def with_celery(app: Flask) -> None:
    celery = Celery("in-memory", broker="memory://", backend="cache+memory://", set_as_current=False)
    celery_tracking.init(celery, app)
    with start_worker(celery, perform_ping_check=False, pool="solo"):
        pass


def with_dramatiq(app: Flask) -> None:
    broker = StubBroker()
    broker.add_middleware(dramatiq_tracking.Middleware(app))
    worker = dramatiq.Worker(broker, worker_timeout=10)
    worker.start()
    worker.stop()


def app_on(uri: str) -> Flask:
    app = Flask("host")
    app.config["SESSIONSTATUS_STORAGE_URI"] = uri
    SessionStatus(app, identify=lambda: "u1")
    return app


class Errors(logging.Handler):
    """What our logger says as errors; Celery takes the handlers of the root away."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage().split(",")[0])


@pytest.fixture
def errors() -> Iterator[list[str]]:
    handler = Errors()
    logger = logging.getLogger("flask_sessionstatus")
    logger.addHandler(handler)
    yield handler.said
    logger.removeHandler(handler)


@pytest.mark.parametrize(("work", "name"), [(with_celery, "Celery"), (with_dramatiq, "dramatiq")])
def test_a_worker_on_a_store_in_memory_says_so(work: Work, name: str, errors: list[str]) -> None:
    app = app_on("memory://")
    work(app)
    assert errors == [f"A {name} worker works for this app"]
    assert app.extensions["sessionstatus"].divided
    app.extensions["sessionstatus"].stop(1)


@pytest.mark.parametrize("work", [with_celery, with_dramatiq])
def test_a_worker_on_redis_has_nothing_to_say(work: Work, errors: list[str]) -> None:
    app = app_on(NOWHERE)
    work(app)
    assert errors == []
    app.extensions["sessionstatus"].stop(1)
