from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
from faults.stores import FaultyRedis
from flask import Flask
from harness import whole_log
from processes.gunicorns import FlaskRun, Gunicorn, Server
from servers import newest

from flask_sessionstatus import Run, SessionStatus
from flask_sessionstatus.stores.base import TaskRef

FOLDER = Path(__file__).parent
LEASE, HEARTBEAT = 2.0, 0.4


@pytest.fixture(autouse=True)
def _needs_redis() -> None:
    newest()


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Randomness that is printed, so that a failure can be had again: SESSIONSTATUS_TEST_SEED=<seed>."""
    seed = int(os.environ.get("SESSIONSTATUS_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"SESSIONSTATUS_TEST_SEED={seed}")  # noqa: T201
    return random.Random(seed)


@pytest.fixture
def conversation_id() -> str:
    return f"conversation {uuid4()}"


@pytest.fixture
def server() -> Iterator[FaultyRedis]:
    """A Redis that comes back empty."""
    server = FaultyRedis().start()
    yield server
    server.remove()


@pytest.fixture
def make_app() -> Iterator[Callable[..., tuple[Flask, SessionStatus]]]:
    """A host in this process, on the store that is named, with settings of the package."""
    made: list[Flask] = []

    def make(uri: str, **settings: object) -> tuple[Flask, SessionStatus]:
        app = Flask("host")
        chosen = {"STORAGE_URI": uri, "LEASE": LEASE, "HEARTBEAT": HEARTBEAT, **settings}
        app.config.update({f"SESSIONSTATUS_{name}": value for name, value in chosen.items()})
        sessionstatus = SessionStatus(app, identify=lambda: "somebody")
        app.register_blueprint(sessionstatus.create_blueprint(), url_prefix="/api/v1")
        made.append(app)
        return app, sessionstatus

    yield make
    for app in made:
        app.extensions["sessionstatus"].shutdown(1)


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    return {**os.environ, **{f"FLASK_SESSIONSTATUS_{name}": str(value) for name, value in settings.items()}}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts the host application, under gunicorn unless another `kind` of server is named: options of the server,
    then settings of the package."""
    started: list[Server] = []

    def start(*options: str, kind: str = "gthread", **settings: object) -> Server:
        chosen = {"LEASE": LEASE, "HEARTBEAT": HEARTBEAT, **settings}
        log = tmp_path / f"server-{len(started)}.log"
        if kind == "flask run":
            server: Server = FlaskRun(log, chosen, folder=FOLDER)
        else:
            server = Gunicorn(log, chosen, "--worker-class", kind, *options, folder=FOLDER)
        started.append(server)
        server.wait_until_ready()
        return server

    yield start
    for server in started:
        server.remove()


Started = subprocess.Popen[str]


def say(process: Started, line: object) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def hear(process: Started) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def stored(app: Flask, run: Run) -> tuple[str, list[object]] | None:
    """A task's state and the data of its events, the end's type last, as the store has them; None: no such task."""
    page = whole_log(app.extensions["sessionstatus"].store, TaskRef(run.conversation_id, run.session_id, run.task_id))
    if page is None:
        return None
    assert [event.cursor.number for event in page.events] == list(range(1, len(page.events) + 1))
    return page.task.state.value, [event.data if event.type == "number" else event.type for event in page.events]


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts a script of this folder with arguments, and settings of the package; its input and output are lines."""
    started: list[Started] = []

    def start(name: str, *arguments: str, **settings: object) -> Started:
        chosen = {"LEASE": LEASE, "HEARTBEAT": HEARTBEAT, **settings}
        with (tmp_path / f"{name}-{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, name, *arguments],
                cwd=FOLDER,
                env=environment(chosen),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
