"""Clients that vanish, or take nothing: they are dropped, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from processes.client import wait_until
from processes.gunicorns import Gunicorn
from sockets.peers import SERVERS, Peer, make_session

SILENCE = 0.5
EVENTS, SIZE = 2_000, 8_000  # more than the buffers of a connection hold
PONG = b"\x8a\x80\x00\x00\x00\x00"

HANDSHAKE = """GET {path} HTTP/1.1\r
Host: {host}\r
Connection: Upgrade\r
Upgrade: websocket\r
Sec-WebSocket-Version: 13\r
Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r
\r
"""


@pytest.fixture(params=SERVERS)
def impatient(
    request: pytest.FixtureRequest, serve: Callable[..., Gunicorn], storage: str, monkeypatch: pytest.MonkeyPatch
) -> Gunicorn:
    """A server that gives silent clients up soon."""
    monkeypatch.setitem(os.environ, "TEST_SILENCE", str(SILENCE))
    return serve(request.param, STORAGE_URI=storage)


@pytest.fixture
def raw() -> Iterator[Callable[[str], socket.socket]]:
    """Opens a socket's connection whose client does nothing more: it answers no ping."""
    opened: list[socket.socket] = []

    def open_it(url: str) -> socket.socket:
        parts = urlsplit(url)
        assert parts.hostname is not None
        connection = socket.socket()
        opened.append(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect((parts.hostname, parts.port or 80))
        connection.sendall(HANDSHAKE.format(path=f"{parts.path}?{parts.query}", host=parts.netloc).encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += connection.recv(1)
        assert answer.startswith(b"HTTP/1.1 101 ")
        return connection

    yield open_it
    for connection in opened:
        connection.close()


def followers(server: Gunicorn) -> int:
    found: int = server.client.get("/api/v1/stats").json["followers"]
    return found


def start(server: Gunicorn, session: dict[str, Any], upto: int, size: int = 0) -> None:
    server.client.post(f"/start/{session['conversationId']}/{session['id']}", upto=upto, size=size)


def test_a_client_that_vanished_is_dropped_and_one_that_is_only_quiet_stays(
    impatient: Gunicorn, raw: Callable[[str], socket.socket]
) -> None:
    session = make_session(impatient)
    with Peer(session["websocketUrl"]) as quiet:
        vanished = [raw(session["websocketUrl"]) for _ in range(3)]
        wait_until(lambda: followers(impatient) == 4, 5, "all are connected")
        began = time.monotonic()
        wait_until(lambda: followers(impatient) == 1, 10, "those that vanished are dropped")
        assert time.monotonic() - began < 4 * SILENCE
        assert quiet.ask(1) == 1
        assert len(vanished) == 3
    assert "Traceback" not in impatient.log.read_text()


def test_a_client_that_takes_nothing_is_dropped_and_the_others_get_everything(
    impatient: Gunicorn, raw: Callable[[str], socket.socket]
) -> None:
    session = make_session(impatient)
    with Peer(session["websocketUrl"]) as reader:
        stalled = raw(session["websocketUrl"])
        wait_until(lambda: followers(impatient) == 2, 5, "both are connected")
        start(impatient, session, EVENTS, SIZE)

        def is_dropped() -> bool:
            # It is not silent: it says that it is there, and reads nothing.
            with contextlib.suppress(OSError):
                stalled.sendall(PONG)
            return followers(impatient) == 1

        wait_until(is_dropped, 15, "the one that stalled is dropped")
        reader.until_type("end")
        assert [frame["data"]["number"] for frame in reader.of("number")] == list(range(1, EVENTS + 1))
        assert reader.ask(1) == 1
    assert "Traceback" not in impatient.log.read_text()


def test_a_client_that_takes_little_at_a_time_stays(impatient: Gunicorn, raw: Callable[[str], socket.socket]) -> None:
    session = make_session(impatient)
    slow = raw(session["websocketUrl"])
    start(impatient, session, EVENTS, SIZE)
    began, taken = time.monotonic(), 0
    while time.monotonic() - began < 5 * SILENCE:
        slow.sendall(PONG)
        taken += len(slow.recv(4096))
        time.sleep(0.005)  # the speed of its network
    assert taken < EVENTS * SIZE / 2
    assert followers(impatient) == 1


def test_a_handler_that_takes_long_is_no_silence(impatient: Gunicorn) -> None:
    session = make_session(impatient)
    with Peer(session["websocketUrl"]) as peer:
        peer.say({"wait": True})
        started = time.monotonic()
        while time.monotonic() - started < 5 * SILENCE:
            start(impatient, session, 1)
            peer.until_type("end")
        impatient.client.post("/release")
        peer.until_type("reply")
        assert peer.ask(1) == 1


def test_a_client_that_is_cut_gives_its_place_back_at_once(impatient: Gunicorn) -> None:
    session = make_session(impatient)
    peers = [Peer(session["websocketUrl"]) for _ in range(5)]
    for peer in peers:
        assert peer.ask(1) == 1
        peer.cut()
    wait_until(lambda: followers(impatient) == 0, SILENCE, "the places are free")
    assert "Traceback" not in impatient.log.read_text()


def test_what_breaks_the_rules_is_answered_by_a_code(impatient: Gunicorn, raw: Callable[[str], socket.socket]) -> None:
    session = make_session(impatient)
    for garbage, code in ((b"\x81\x01a", 1002), (b"\xff\xff" * 10, 1002), (b"\x81\x82\x00\x00\x00\x00\xff\xff", 1007)):
        connection = raw(session["websocketUrl"])
        connection.sendall(garbage)
        header = connection.recv(4)
        assert header[0] == 0x88
        assert int.from_bytes(header[2:4], "big") == code
    wait_until(lambda: followers(impatient) == 0, 5, "the places are free")
    assert "Traceback" not in impatient.log.read_text()
