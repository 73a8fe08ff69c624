"""The socket of another program's session: its events as they come, resumed by the ids of its stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread

import pytest
from existing import Program, Viewer
from sockets.peers import Peer
from werkzeug.serving import make_server


@pytest.fixture
def program(empty_redis: Callable[[], str]) -> Iterator[Program]:
    program = Program(empty_redis())
    yield program
    program.close()


@pytest.fixture
def viewer(program: Program, storage: str) -> Iterator[Viewer]:
    viewer = Viewer(storage, websocket_path="/ws")
    yield viewer
    viewer.close()


@pytest.fixture
def url(viewer: Viewer) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, viewer.app, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"ws://127.0.0.1:{server.server_port}/ws?session_id=a:b"
    server.shutdown()


def test_one_socket_has_every_event_once_wherever_it_was_cut(viewer: Viewer, program: Program, url: str) -> None:
    program.start("c1", "a:b")
    viewer.until(lambda: viewer.conversation("c1", "active-session").status_code == 200)
    seen: list[str] = []
    cursor: str | None = None
    for part in range(4):
        with Peer(url, cursor) as peer:
            for number in range(5):
                program.chunk("c1", "a:b", f"word{part}.{number}")
            if part == 3:
                program.end("c1", "a:b", "error", "No tokens left.")
            last = "end" if part == 3 else f"word{part}.4"
            while not any(last in (frame["type"], frame["data"].get("content")) for frame in peer.frames):
                peer.receive()
            seen += [frame["data"].get("content", frame["type"]) for frame in peer.frames if frame["cursor"]]
            cursor = peer.cursor
    assert seen == ["start", *(f"word{part}.{number}" for part in range(4) for number in range(5)), "end"]
    assert peer.frames[-1]["data"]["errorMessage"] == "No tokens left."
