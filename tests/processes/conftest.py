from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from processes.gunicorns import Gunicorn

LEASE, HEARTBEAT = 2.0, 0.5


@pytest.fixture
def storage(empty_redis: Callable[[], str]) -> str:
    """The URI of an empty Redis."""
    return empty_redis()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Gunicorn]]:
    """Starts the host application under gunicorn: options of gunicorn, then settings of the package."""
    started: list[Gunicorn] = []

    def start(*options: str, **settings: object) -> Gunicorn:
        chosen = {"LEASE": LEASE, "HEARTBEAT": HEARTBEAT, **settings}
        server = Gunicorn(tmp_path / f"gunicorn-{len(started)}.log", chosen, *options)
        started.append(server)
        server.wait_until_ready()
        return server

    yield start
    for server in started:
        server.remove()


@pytest.fixture
def conversation_id() -> str:
    return f"conversation {uuid4()}"
