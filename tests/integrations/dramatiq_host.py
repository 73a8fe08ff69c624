"""A host application and its actors, as dramatiq's workers import it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import dramatiq
import puppet as puppets
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, Retries, SkipMessage, TimeLimit
from dramatiq_abort import Abort
from flask import Flask, current_app

from flask_sessionstatus import SessionStatus, current_run
from flask_sessionstatus.integrations import dramatiq as tracking

puppets.ERRORS.update({"Retry": dramatiq.Retry, "Abort": Abort})

app = Flask("host")
app.config.from_prefixed_env()
SessionStatus(app, identify=lambda: "u1")

# What is lost is found soon: a worker that does not beat for three seconds is dead, and each command looks for such.
broker = RedisBroker(
    url=os.environ["BROKER"], namespace=os.environ["QUEUE"], heartbeat_timeout=3000, maintenance_chance=1_000_000
)
for middleware in broker.middleware:
    if isinstance(middleware, TimeLimit):
        middleware.manager.interval = 0.1
    if isinstance(middleware, Retries):
        middleware.min_backoff = 50


class Skipping(dramatiq.Middleware):
    """Other middleware, which skips what it is told to."""

    def before_process_message(self, broker: dramatiq.Broker, message: Any) -> None:
        if message.options.get("skip"):
            raise SkipMessage("skipped")


broker.add_middleware(AsyncIO())
broker.add_middleware(Skipping())
broker.add_middleware(tracking.Middleware(app))
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=0)
def puppet(name: str) -> Any:
    return puppets.puppet(name)


@dramatiq.actor(max_retries=1, notify_shutdown=True)
def patient_puppet(name: str) -> Any:
    return puppets.puppet(name)


@dramatiq.actor
def hello() -> str:
    return "hello"


@dramatiq.actor
async def coroutine() -> list[str]:
    await asyncio.sleep(0)
    current_run.emit("token", {"text": "a"})
    return [current_app.name, current_run.task_id]
