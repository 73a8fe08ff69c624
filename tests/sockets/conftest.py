from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from harness import Kind
from hosts import Host
from processes.gunicorns import Server
from sockets.peers import SERVERS, server
from werkzeug.serving import make_server

from flask_sessionstatus import state
from flask_sessionstatus.stores import Limits, Store


@pytest.fixture
def storage(redis_url: Callable[[str], str]) -> str:
    return redis_url("newest")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts the host application under the server of that name, with options of the server and settings."""
    started: list[Server] = []

    def start(name: str, *options: str, **settings: object) -> Server:
        started.append(server(name, tmp_path / f"{name}-{len(started)}.log", settings, *options))
        return started[-1]

    yield start
    for each in started:
        each.remove()


@pytest.fixture(scope="module")
def running(
    redis_url: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Server]]:
    """A running server by name, on Redis; started when first asked for, the same for all tests of a module."""
    started: dict[str, Server] = {}

    def start(name: str) -> Server:
        if name not in started:
            log = tmp_path_factory.mktemp("logs") / f"{name}.log"
            started[name] = server(name, log, {"STORAGE_URI": redis_url("newest"), "MAX_BODY_BYTES": 100_000})
        return started[name]

    yield start
    for each in started.values():
        each.remove()


@pytest.fixture(params=SERVERS)
def each_server(request: pytest.FixtureRequest, running: Callable[[str], Server]) -> Server:
    return running(request.param)


# A host in this process, whose clock is moved


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest, redis_url: Callable[[str], str]) -> Iterator[Kind]:
    kind = Kind(request.param, None if request.param == "memory" else redis_url("newest"))
    yield kind
    kind.close()


class Served:
    """A host application of this process and the address of the server that serves it."""

    def __init__(self, host: Host, address: str) -> None:
        self.host = host
        self.address = address

    def url(self, session_id: str = "s1") -> str:
        return f"ws://{self.address}/ws?session_id={session_id}"


@pytest.fixture
def serve_here(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """Serves a host application from this process, with settings of the package."""
    made: list[tuple[Host, Any, Thread]] = []

    def clocked(uri: str, limits: Limits, **options: Any) -> Store:
        return kind.make(limits)

    monkeypatch.setattr(state, "store_from_uri", clocked)

    def start(**settings: object) -> Served:
        named = {
            f"SESSIONSTATUS_{name.upper()}": value for name, value in {"websocket_path": "/ws", **settings}.items()
        }
        host = Host("flask", kind, named)
        serving = make_server("127.0.0.1", 0, host.app, threaded=True)
        thread = Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        made.append((host, serving, thread))
        host.state.engine.presence._monotonic = kind.clock.monotonic
        return Served(host, f"127.0.0.1:{serving.server_port}")

    yield start
    for host, serving, thread in made:
        host.close()
        serving.shutdown()
        serving.server_close()
        thread.join(10)
