from __future__ import annotations

import gc
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from processes.client import wait_until

from flask_sessionstatus.streaming.stalls import LOOKS, PIECE, Delivery, Stalls, _progress

WAIT = 10.0
NEVER = 1e6
linux = pytest.mark.skipif(sys.platform != "linux", reason="Only Linux tells what a client has acknowledged.")


class Stream:
    """Frames without an end, until somebody stops or closes it."""

    def __init__(self, size: int = 2000, count: int = 10**9) -> None:
        self.stopped = threading.Event()
        self.closed = threading.Event()
        self._frame = b"x" * size
        self._count = count

    def __iter__(self) -> Iterator[bytes]:
        return (self._frame for _ in range(self._count))

    def stop(self) -> None:
        self.stopped.set()

    def close(self) -> None:
        self.closed.set()


class Served:
    """A stream that a server's thread sends to a client over a real connection, with what servers send at its end."""

    def __init__(self, ends: tuple[socket.socket, socket.socket], stream: Stream, farewell: bytes) -> None:
        self.connection, self.client = ends
        self.client.settimeout(WAIT)
        self.stream = stream
        self._farewell = farewell
        self.stalls = Stalls(NEVER)
        self.error: OSError | None = None
        self.delivery = Delivery(stream, self.connection, self.stalls)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            for piece in self.delivery:
                self.connection.sendall(piece)
            self.connection.sendall(self._farewell)
        except OSError as error:
            self.error = error
        finally:
            self.delivery.close()

    @property
    def acknowledged(self) -> int:
        progress = _progress(self.connection)
        assert progress is not None
        return progress[2]

    def close(self) -> None:
        for each in (self.client, self.connection):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.thread.join(WAIT)
        for each in (self.client, self.connection):
            each.close()


def tcp(folder: Path) -> tuple[socket.socket, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    return connected(listener, socket.socket())


def unix(folder: Path) -> tuple[socket.socket, socket.socket]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()
    return connected(listener, socket.socket(socket.AF_UNIX))


def connected(listener: socket.socket, client: socket.socket) -> tuple[socket.socket, socket.socket]:
    with listener:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    served: list[Served] = []

    def start(
        ends: Callable[[Path], tuple[socket.socket, socket.socket]],
        stream: Stream | None = None,
        farewell: bytes = b"",
    ) -> Served:
        served.append(Served(ends(tmp_path), stream or Stream(), farewell))
        return served[-1]

    yield start
    for each in served:
        each.close()


@pytest.mark.parametrize("ends", [tcp, unix])
@pytest.mark.parametrize(
    ("size", "count", "farewell"),
    [(2000, 10**9, b""), (5 * PIECE, 10**9, b""), (0, 0, b"x" * 200 * PIECE)],
    ids=["small frames", "large frames", "at its end"],
)
def test_the_sender_to_a_client_that_takes_nothing_is_freed(
    serve: Callable[..., Served], ends: Callable[[Path], object], size: int, count: int, farewell: bytes
) -> None:
    served = serve(ends, Stream(size, count), farewell)
    looks = 0
    while served.thread.is_alive():
        served.stalls.look()
        looks += 1
        served.thread.join(0.01)
        assert looks < 1000
    assert looks > LOOKS
    assert isinstance(served.error, BrokenPipeError)
    assert served.stream.stopped.is_set()
    assert served.stream.closed.is_set()


def test_what_was_sent_before_the_cut_can_still_be_read(serve: Callable[..., Served]) -> None:
    served = serve(tcp, Stream(7))
    wait_until(lambda: served.stalls.look() or served.stream.closed.is_set(), WAIT, "the cut")
    served.connection.close()
    received = b"".join(iter(lambda: served.client.recv(1_000_000), b""))
    assert len(received) > PIECE
    assert set(received) == {ord("x")}


@linux
def test_a_client_that_acknowledges_anything_between_looks_is_not_cut(serve: Callable[..., Served]) -> None:
    served = serve(tcp)
    # One piece can take as long as it needs.
    for _ in range(4 * LOOKS):
        before = served.acknowledged
        while served.acknowledged == before:
            assert served.client.recv(1000)
        served.stalls.look()
    assert not served.stream.stopped.is_set()
    assert served.thread.is_alive()


def test_where_nothing_is_told_a_client_that_takes_a_piece_between_looks_is_not_cut(
    serve: Callable[..., Served],
) -> None:
    served = serve(unix, Stream(100 * PIECE))
    for _ in range(4 * LOOKS):
        for _ in range(4):
            left = PIECE
            while left:
                left -= len(served.client.recv(left))
        served.stalls.look()
    assert not served.stream.stopped.is_set()
    assert served.thread.is_alive()


@linux
@pytest.mark.parametrize("linger", [(0, 0), (1, 0)], ids=["closed", "reset"])
def test_a_client_that_has_gone_is_seen_at_the_next_look_though_nobody_sends(
    serve: Callable[..., Served], linger: tuple[int, int]
) -> None:
    go_on = threading.Event()

    class Silent(Stream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"first"
            go_on.wait(WAIT)

    served = serve(tcp, Silent())
    assert served.client.recv(100) == b"first"
    served.stalls.look()
    assert not served.stream.stopped.is_set()
    served.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", *linger))
    served.client.close()
    served.stalls.look()
    assert served.stream.stopped.is_set()
    go_on.set()


def test_a_client_that_waits_for_the_next_event_is_not_cut(serve: Callable[..., Served]) -> None:
    more = threading.Event()

    class Slow(Stream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"first"
            more.wait(WAIT)
            yield b"second"

    served = serve(tcp, Slow())
    assert served.client.recv(100) == b"first"
    for _ in range(4 * LOOKS):
        served.stalls.look()
    assert not served.stream.stopped.is_set()
    more.set()
    assert served.client.recv(100) == b"second"


@linux
def test_a_client_that_has_not_taken_all_is_cut_though_nobody_sends_any_more(serve: Callable[..., Served]) -> None:
    go_on = threading.Event()

    class Ended(Stream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"x" * 100_000
            go_on.wait(WAIT)

    served = serve(tcp, Ended())
    wait_until(lambda: served.stalls.look() or served.stream.stopped.is_set(), WAIT, "the cut")
    go_on.set()


def test_a_connection_is_left_alone_once_its_stream_is_closed(serve: Callable[..., Served]) -> None:
    served = serve(tcp, Stream(10 * PIECE, count=1))
    served.thread.join(WAIT)
    assert served.stream.closed.is_set()
    for _ in range(4 * LOOKS):
        served.stalls.look()
    served.connection.sendall(b"the next response")
    assert not served.stream.stopped.is_set()


def test_large_frames_are_handed_over_in_pieces_and_none_is_lost(tmp_path: Path) -> None:
    connection, client = tcp(tmp_path)
    with connection, client:

        class Frames(Stream):
            def __iter__(self) -> Iterator[bytes]:
                return iter([b"a", bytes(range(256)) * 1024, b"b" * PIECE, b""])

        pieces = list(Delivery(Frames(), connection, Stalls(NEVER)))
    assert b"".join(pieces) == b"a" + bytes(range(256)) * 1024 + b"b" * PIECE
    assert max(map(len, pieces)) == PIECE
    assert all(pieces)


def test_the_thread_lives_while_there_is_something_to_look_after(tmp_path: Path) -> None:
    stalls = Stalls(0.01)

    def thread() -> bool:
        return stalls._thread is not None and stalls._thread.is_alive()

    connection, client = tcp(tmp_path)
    with connection, client:
        assert not thread()
        closed = Delivery(Stream(), connection, stalls)
        dropped = Delivery(Stream(), connection, stalls)
        assert thread()
        closed.close()
        del dropped
        gc.collect()
        wait_until(lambda: not thread(), WAIT, "its end")
        again = Delivery(Stream(), connection, stalls)
        assert thread()
        again.close()
        wait_until(lambda: not thread(), WAIT, "its end")


def test_a_look_that_fails_is_not_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stalls = Stalls(0.01)
    looked = threading.Event()

    class Broken(Delivery):
        def look(self) -> bool:
            if "failed" in caplog.text:
                looked.set()
            raise ValueError("a defect")

    connection, client = tcp(tmp_path)
    with connection, client:
        broken = Broken(Stream(), connection, stalls)
        assert looked.wait(WAIT)
        broken.close()
        wait_until(lambda: stalls._thread is None, WAIT, "its end")
