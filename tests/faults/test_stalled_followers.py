"""F19: a client that stops reading, or has vanished, is nobody else's trouble, and its place becomes free."""

from __future__ import annotations

import socket
import statistics
import struct
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from faults.followers import Follower
from faults.stores import FaultyRedis
from flask import Flask
from processes.client import Client, wait_until
from processes.gunicorns import Gunicorn

from flask_sessionstatus import Run, SessionStatus

PING = 0.5
READERS, MEASURED, PAUSE = 5, 150, 0.005
BURST, TEXT = 4000, "x" * 2000


def mute(client: Client, path: str) -> socket.socket:
    """A client that asks for a stream and reads nothing of it."""
    address = urlsplit(client.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((address.hostname, address.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode())
    return connection


def reset(connection: socket.socket) -> None:
    """Close without a farewell."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def followers_of(client: Client) -> int:
    count: int = client.get("/api/v1/stats").json["followers"]
    return count


def latency(run: Run, readers: list[Follower]) -> float:
    """The median way of an event to a reader (ms), over all readers."""
    first = len(readers[0].frames)
    for number in range(MEASURED):
        run.emit("number", {"number": number, "at": time.monotonic()})
        time.sleep(PAUSE)
    wait_until(lambda: all(len(each.frames) == first + MEASURED for each in readers), 10, "all events")
    ways = [frame.at - frame.data["at"] for each in readers for frame in each.frames[first:]]
    return statistics.median(ways) * 1000


@pytest.mark.slow
def test_clients_that_stop_reading_or_vanish_slow_nobody_down_and_give_their_places_back(
    server: FaultyRedis,
    make_app: Callable[..., tuple[Flask, SessionStatus]],
    serve: Callable[..., Gunicorn],
    conversation_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEST_PING", str(PING))
    web = serve("--threads", str(READERS + 6), STORAGE_URI=server.url).client
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        path = f"{web.conversation(conversation_id)}/resume/{run.session_id}"
        readers = [Follower([web], path) for _ in range(READERS)]
        wait_until(lambda: followers_of(web) == READERS, 5, "the readers")
        alone = latency(run, readers)

        stalled = [mute(web, path) for _ in range(2)]
        vanished = [mute(web, path) for _ in range(2)]
        wait_until(lambda: followers_of(web) == READERS + 4, 5, "the others")
        for connection in vanished:
            reset(connection)
        # More than the buffers of both sides hold: from here on the stalled ones' threads are stuck in their sends.
        for number in range(BURST):
            run.emit("number", {"number": number, "text": TEXT})
        wait_until(lambda: all(len(each.frames) == MEASURED + BURST for each in readers), 20, "the burst")
        assert followers_of(web) == READERS + 2
        beside = latency(run, readers)
        print(f"median latency: alone {alone:.2f} ms, beside stalled ones {beside:.2f} ms")  # noqa: T201
        assert beside < 3 * alone + 10

        for connection in stalled:
            connection.close()
        wait_until(lambda: followers_of(web) == READERS, 2 * PING + 1, "the stalled ones' places")
    for reader in readers:
        reader.join(5)
        assert [end.data["state"] for end in reader.ends] == ["completed"]
    wait_until(lambda: followers_of(web) == 0, 5, "all places")


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closed", "reset"])
def test_a_client_that_vanished_from_a_silent_stream_is_gone_after_two_pings(
    server: FaultyRedis,
    make_app: Callable[..., tuple[Flask, SessionStatus]],
    serve: Callable[..., Gunicorn],
    conversation_id: str,
    monkeypatch: pytest.MonkeyPatch,
    leave: Callable[[socket.socket], None],
) -> None:
    monkeypatch.setenv("TEST_PING", str(PING))
    web = serve("--threads", "4", STORAGE_URI=server.url).client
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        path = f"{web.conversation(conversation_id)}/resume/{run.session_id}"
        clients = [mute(web, path) for _ in range(3)]
        wait_until(lambda: followers_of(web) == 3, 5, "the clients")
        left = time.monotonic()
        for each in clients:
            leave(each)
        wait_until(lambda: followers_of(web) == 0, 2 * PING + 1, "their places")
        print(f"free after {time.monotonic() - left:.2f} s")  # noqa: T201
        # The threads too: as many again fit beside the one that answers.
        again = [mute(web, path) for _ in range(3)]
        wait_until(lambda: followers_of(web) == 3, 5, "the next clients")
        for each in again:
            each.close()
