"""F19: a client that stops reading, or has vanished, is nobody else's trouble, and its place becomes free."""

from __future__ import annotations

import http.client
import json
import re
import socket
import statistics
import struct
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from faults.followers import Follower
from faults.stores import FaultyRedis
from flask import Flask
from processes.client import Client, wait_until
from processes.gunicorns import FlaskRun, Server

from flask_sessionstatus import Run, SessionStatus
from flask_sessionstatus.stores.bounds import STEP

MakeApp = Callable[..., tuple[Flask, SessionStatus]]
Serve = Callable[..., Server]

HEARTBEAT = 1.5
FREED = 2 * HEARTBEAT
MARGIN = 0.5
READERS, STALLED, MEASURED, PAUSE = 5, 2, 100, 0.005
# More than the buffers of both sides hold.
BURST, TEXT = 3000, "x" * 2000
SIP, SIP_PAUSE = 4096, 0.2
KINDS = {
    "gthread": lambda places: ("--threads", str(places)),
    "gevent": lambda places: ("--worker-connections", str(places)),
    "gevent_pywsgi": lambda places: ("--worker-connections", str(places)),
    "flask run": lambda places: (),
}


@pytest.fixture(params=["gthread", "gevent", "flask run"])
def web(request: pytest.FixtureRequest, server: FaultyRedis, serve: Serve) -> Server:
    """The host under each kind of server, with places for the readers, the stalled and one request."""
    options = KINDS[request.param](READERS + STALLED + 1)
    settings = {"STORAGE_URI": server.url, "HEARTBEAT": HEARTBEAT, "LEASE": 4 * HEARTBEAT}
    return serve(*options, kind=request.param, **settings)


class Mute:
    """A client that asks for a stream and reads nothing of it, unless it is told to.

    `address` is the path of a Unix socket. The window is small until it is opened.
    """

    def __init__(self, client: Client, path: str, address: str | None = None) -> None:
        url = urlsplit(client.url)
        self.received = b""
        self.socket = socket.socket(socket.AF_INET if address is None else socket.AF_UNIX)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(20)
        self.socket.connect(address or (url.hostname, url.port))
        head = f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nAccept: text/event-stream\r\n\r\n"
        self.socket.sendall(head.encode())

    def sip(self, size: int) -> bool:
        """Read at most so many bytes; False when the server has closed."""
        some = self.socket.recv(size)
        self.received += some
        return bool(some)

    def read(self) -> None:
        """Read what comes until the stream's end, or until the server closes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
        while b"event: end\n" not in self.received[-1000:] and self.sip(1_000_000):
            pass

    @property
    def numbers(self) -> list[int]:
        """The numbers that it has read, chunks put together."""
        events = re.sub(rb"\r\n[0-9a-fA-F]+\r\n", b"", self.received)
        return [json.loads(data)["number"] for data in re.findall(rb"event: number\ndata: (.*)\n\n", events)]

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close without a farewell."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def followers_of(client: Client) -> int:
    count: int = client.get("/api/v1/stats").json["followers"]
    return count


def threads_of(server: Server) -> int:
    count: int = psutil.Process(server.process.pid).num_threads()
    return count


def burst(run: Run) -> None:
    for number in range(BURST):
        run.emit("number", {"number": number, "text": TEXT})


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
def test_clients_that_stop_reading_slow_nobody_down_and_are_freed_within_two_heartbeats(
    web: Server, server: FaultyRedis, make_app: MakeApp, conversation_id: str
) -> None:
    client = web.client
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        path = f"{client.conversation(conversation_id)}/resume/{run.session_id}"
        readers = [Follower([client], path) for _ in range(READERS)]
        wait_until(lambda: followers_of(client) == READERS, 5, "the readers")
        alone = latency(run, readers)
        threads = threads_of(web)

        stalled = [Mute(client, path) for _ in range(STALLED)]
        wait_until(lambda: followers_of(client) == READERS + STALLED, 5, "the others")
        began = time.monotonic()
        burst(run)
        wait_until(lambda: all(len(each.frames) == MEASURED + BURST for each in readers), 20, "the burst")
        # From here on the stalled ones' threads are stuck in their sends.
        assert followers_of(client) == READERS + STALLED
        beside = latency(run, readers)
        print(f"median latency: alone {alone:.2f} ms, beside stalled ones {beside:.2f} ms")  # noqa: T201
        assert beside < 3 * alone + 10

        wait_until(lambda: followers_of(client) == READERS, 2 * FREED, "the stalled ones' places")
        took = time.monotonic() - began
        print(f"free {took:.2f} s after the first event that they did not read")  # noqa: T201
        assert took < FREED + MARGIN
        # Their threads too: as many again fit beside the one that answers.
        again = [Mute(client, path) for _ in range(STALLED)]
        wait_until(lambda: followers_of(client) == READERS + STALLED, 5, "the next clients")
        for each in again:
            each.reset()
        # What was sent to them they can still read, up to the close; the rest they get when they come again.
        for each in stalled:
            each.read()
            assert each.numbers[MEASURED:] == list(range(len(each.numbers) - MEASURED))
            assert len(each.numbers) < BURST
    for reader in readers:
        reader.join(5)
        assert [end.data["state"] for end in reader.ends] == ["completed"]
        assert reader.connections == 1
    wait_until(lambda: followers_of(client) == 0, 5, "all places")
    if isinstance(web, FlaskRun):  # which takes as many threads as it wants
        wait_until(lambda: threads_of(web) <= threads, 5, "all threads")
    assert "Traceback" not in web.log.read_text()


@pytest.mark.parametrize("web", KINDS, indirect=True)
def test_a_client_that_stops_reading_is_freed_though_its_stream_is_silent_by_then(
    web: Server, server: FaultyRedis, make_app: MakeApp, conversation_id: str
) -> None:
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        stalled = Mute(web.client, f"{web.client.conversation(conversation_id)}/resume/{run.session_id}")
        wait_until(lambda: followers_of(web.client) == 1, 5, "the client")
        # More than it has room for, but no more than the server's side holds: its thread waits for the next event.
        for number in range(BURST // 30):
            run.emit("number", {"number": number, "text": TEXT})
        began = time.monotonic()
        wait_until(lambda: followers_of(web.client) == 0, FREED + MARGIN, "its place")
        print(f"free after {time.monotonic() - began:.2f} s")  # noqa: T201
        stalled.read()
        assert stalled.numbers == list(range(BURST // 30))


@pytest.mark.slow
def test_a_slow_client_that_reads_a_little_now_and_then_is_not_cut(
    web: Server, server: FaultyRedis, make_app: MakeApp, conversation_id: str
) -> None:
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        burst(run)
    slow = Mute(web.client, f"{web.client.conversation(conversation_id)}/resume/{run.session_id}")
    until = time.monotonic() + 2 * FREED
    while time.monotonic() < until:
        assert slow.sip(SIP)
        time.sleep(SIP_PAUSE)
    assert followers_of(web.client) == 1
    slow.read()
    assert slow.numbers == list(range(BURST))
    slow.close()


@pytest.mark.slow
def test_behind_a_unix_socket_a_stalled_client_is_freed_and_a_slow_one_is_not_cut(
    server: FaultyRedis, serve: Serve, make_app: MakeApp, conversation_id: str, tmp_path: Path
) -> None:
    address = str(tmp_path / "web.sock")
    settings = {"STORAGE_URI": server.url, "HEARTBEAT": HEARTBEAT, "LEASE": 4 * HEARTBEAT}
    web = serve("--threads", "3", "--bind", f"unix:{address}", **settings)
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        path = f"{web.client.conversation(conversation_id)}/resume/{run.session_id}"
        burst(run)
    stalled, slow = Mute(web.client, path, address), Mute(web.client, path, address)
    began = time.monotonic()
    wait_until(lambda: followers_of(web.client) == 2, 5, "the clients")
    freed = False
    while time.monotonic() < began + 2 * FREED:
        # A Unix socket tells of progress only what makes room for the next piece.
        assert slow.sip(10 * SIP)
        time.sleep(SIP_PAUSE)
        freed = freed or followers_of(web.client) == 1
        assert freed or time.monotonic() < began + FREED + MARGIN
    assert followers_of(web.client) == 1
    for each in (stalled, slow):
        each.read()
        assert each.numbers == list(range(len(each.numbers)))
        each.close()
    assert len(stalled.numbers) < BURST
    assert len(slow.numbers) == BURST


@pytest.mark.parametrize("kind", ["gthread", "gevent"])
def test_a_connection_that_carried_a_stream_is_an_ordinary_one_afterwards(
    server: FaultyRedis, serve: Serve, make_app: MakeApp, conversation_id: str, kind: str
) -> None:
    web = serve("--keep-alive", "20", kind=kind, STORAGE_URI=server.url, HEARTBEAT=0.1)
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        for number in range(BURST // 10):
            run.emit("number", {"number": number, "text": TEXT})
    connection = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=10)
    connection.request("GET", f"{web.client.conversation(conversation_id)}/resume/{run.session_id}")
    assert b"event: end\n" in connection.getresponse().read()
    used = connection.sock
    used.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    # A response that takes its time: more than the client has room for, and it does not read for ten heartbeats.
    connection.request("GET", f"/api/v1/sessions/{run.session_id}/tasks/{run.task_id}/events")
    time.sleep(1)
    events = json.loads(connection.getresponse().read())["events"]
    assert [event["type"] for event in events] == ["number"] * STEP
    assert connection.sock is used
    connection.close()


def test_clients_that_vanish_in_a_burst_give_their_places_back_at_once(
    web: Server, server: FaultyRedis, make_app: MakeApp, conversation_id: str
) -> None:
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        path = f"{web.client.conversation(conversation_id)}/resume/{run.session_id}"
        reader = Follower([web.client], path)
        vanished = [Mute(web.client, path) for _ in range(STALLED)]
        wait_until(lambda: followers_of(web.client) == 1 + STALLED, 5, "the clients")
        for each in vanished:
            each.reset()
        burst(run)
        wait_until(lambda: len(reader.frames) == BURST, 20, "the burst")
        assert followers_of(web.client) == 1
    reader.join(5)
    assert [end.data["state"] for end in reader.ends] == ["completed"]


@pytest.mark.parametrize("leave", [Mute.close, Mute.reset], ids=["closed", "reset"])
def test_a_client_that_vanished_from_a_silent_stream_is_gone_within_two_heartbeats(
    server: FaultyRedis,
    make_app: MakeApp,
    serve: Serve,
    conversation_id: str,
    leave: Callable[[Mute], None],
) -> None:
    web = serve("--threads", "4", STORAGE_URI=server.url, HEARTBEAT=HEARTBEAT, LEASE=4 * HEARTBEAT).client
    app, sessionstatus = make_app(server.url)
    with app.app_context(), sessionstatus.run(conversation_id, namespace_id="somebody") as run:
        path = f"{web.conversation(conversation_id)}/resume/{run.session_id}"
        clients = [Mute(web, path) for _ in range(3)]
        wait_until(lambda: followers_of(web) == 3, 5, "the clients")
        left = time.monotonic()
        for each in clients:
            leave(each)
        wait_until(lambda: followers_of(web) == 0, FREED + MARGIN, "their places")
        print(f"free after {time.monotonic() - left:.2f} s")  # noqa: T201
        # The threads too: as many again fit beside the one that answers.
        again = [Mute(web, path) for _ in range(3)]
        wait_until(lambda: followers_of(web) == 3, 5, "the next clients")
        for each in again:
            each.close()
