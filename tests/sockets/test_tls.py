"""A socket on a connection whose TLS the server ends itself: reading and writing go on at once.

The client is one thread: what others do with their own TLS is not the question.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from processes.gunicorns import Gunicorn
from servers import Certificate
from sockets.peers import FOLDER, OPTIONS, WAIT, Frame, cursors_of, make_session
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage

from flask_sessionstatus.models import Cursor

EVENTS = 2_000
CHUNKS = 400
CHUNK = b"?" + 20_000 * b"x"
TRIES = 5


@pytest.fixture(scope="module", params=["gthread", "gevent"])
def secure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    folder = tmp_path_factory.mktemp("tls")
    settings = {"WEBSOCKET_PATH": "/ws", "STORAGE_URI": "memory://", "MAX_BODY_BYTES": 100_000}
    server = Gunicorn(folder / "log", settings, *OPTIONS[request.param], folder=FOLDER, certificate=Certificate(folder))
    server.wait_until_ready()
    yield server
    server.remove()
    assert "Traceback" not in server.log.read_text()


@asynccontextmanager
async def connected(server: Gunicorn, session: dict[str, Any], cursor: str = "0-0") -> AsyncIterator[ClientConnection]:
    """A client. Under load gunicorn's gevent worker may read no request of a connection under TLS, and close it after
    its keep-alive: such a client comes again."""
    assert session["websocketUrl"].startswith("wss://")
    url = f"{session['websocketUrl']}&cursor={cursor}"
    for left in reversed(range(TRIES)):
        try:
            peer = await connect(url, ssl=server.client.context, compression=None, max_size=None, open_timeout=WAIT)
            break
        except InvalidMessage:
            if not left:
                raise
    try:
        yield peer
    finally:
        await peer.close()


async def receive(peer: ClientConnection) -> Frame:
    frame: Frame = json.loads(await asyncio.wait_for(peer.recv(), WAIT))
    return frame


def start(server: Gunicorn, session: dict[str, Any]) -> None:
    server.client.post(f"/start/{session['conversationId']}/{session['id']}", upto=EVENTS, size=2_000)


def test_messages_longer_than_a_record_of_tls_go_both_ways(secure: Gunicorn) -> None:
    async def converse() -> None:
        async with connected(secure, make_session(secure)) as peer:
            for size in (1, 16_383, 16_384, 16_385, 90_000):
                await peer.send(json.dumps("x" * size))
                assert (await receive(peer))["data"] == "x" * size

    asyncio.run(converse())


def test_events_go_out_while_chunks_come_in(secure: Gunicorn) -> None:
    session = make_session(secure)
    frames: list[Frame] = []

    def is_complete() -> bool:
        counts = Counter(frame["type"] for frame in frames) if len(frames) >= EVENTS + CHUNKS else Counter()
        return counts["end"] == 1 and counts["reply"] == CHUNKS

    async def read_and_talk() -> None:
        async with connected(secure, session) as peer:

            async def talk() -> None:
                for _ in range(CHUNKS):
                    await peer.send(CHUNK)

            talking = asyncio.create_task(talk())
            while not is_complete():
                frames.append(await receive(peer))
            await talking

    start(secure, session)
    asyncio.run(read_and_talk())
    cursors = [frame["cursor"] for frame in frames if frame["cursor"] is not None]
    assert cursors == cursors_of(EVENTS + 1, Cursor.parse(cursors[0]).epoch)
    assert [frame["data"] for frame in frames if frame["type"] == "reply"] == [len(CHUNK)] * CHUNKS


def test_a_client_that_is_cut_comes_back_to_where_it_was(secure: Gunicorn) -> None:
    session = make_session(secure)
    cursors: list[str] = ["0-0"]

    async def read_and_be_cut(count: int) -> None:
        async with connected(secure, session, cursors[-1]) as peer:
            while len(cursors) <= count:
                frame = await receive(peer)
                if frame["cursor"] is not None:
                    cursors.append(frame["cursor"])
            peer.transport.abort()

    start(secure, session)
    for count in (100, 300, 600, 1_000):
        asyncio.run(read_and_be_cut(count))
    assert cursors[1:] == cursors_of(1_000, Cursor.parse(cursors[1]).epoch)


def test_a_session_that_is_deleted_closes_it(secure: Gunicorn) -> None:
    session = make_session(secure)

    async def be_closed() -> int:
        async with connected(secure, session) as peer:
            await peer.send("1")
            assert (await receive(peer))["data"] == 1
            path = f"/api/v1/sessions/{session['id']}"
            deleted = await asyncio.to_thread(secure.client.request, "DELETE", path)
            assert deleted.status == 200
            try:
                while True:
                    await receive(peer)
            except ConnectionClosed as closed:
                return closed.rcvd.code if closed.rcvd is not None else 1006

    assert asyncio.run(be_closed()) != 1006
