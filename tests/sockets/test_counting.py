"""What is counted of a session by several processes at once is exact, and costs no write for each chunk."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import redis
from processes.client import wait_until
from processes.gunicorns import Server
from sockets.peers import Peer, make_session

PROCESSES = 4
CHUNKS = 500
BAD = 25


def test_four_processes_count_exactly(serve: Callable[..., Server], storage: str) -> None:
    server = serve("gthread", "--workers", str(PROCESSES), STORAGE_URI=storage, HEARTBEAT=0.1, LEASE=2)
    session = make_session(server)
    peers: dict[int, Peer] = {}
    with contextlib.ExitStack() as opened:
        for _ in range(400):
            peer = Peer(session["websocketUrl"])
            pid = peer.ask({})["pid"]
            if pid in peers:
                peer.socket.close()
                continue
            peers[pid] = opened.enter_context(peer)
            if len(peers) == PROCESSES:
                break
        assert len(peers) == PROCESSES

        def speak(peer: Peer) -> None:
            for number in range(CHUNKS):
                peer.say(b"!" if number % (CHUNKS // BAD) == 0 else b"a chunk of sound")
            assert peer.ask(1) == {"error": "The message could not be handled."}
            for _ in range(BAD - 1):
                peer.until_type("error")
            peer.until_type("reply")

        speakers = [threading.Thread(target=speak, args=(peer,)) for peer in peers.values()]
        for speaker in speakers:
            speaker.start()
        for speaker in speakers:
            speaker.join(60)

    def stats() -> Any:
        return server.client.get(f"/api/v1/sessions/{session['id']}/stats").json

    expected = (PROCESSES * CHUNKS, PROCESSES * (CHUNKS - BAD), {"chunks": PROCESSES * (CHUNKS - BAD)})
    wait_until(lambda: stats()["audioChunksReceived"] == expected[0], 10, "the last chunks are written")
    counted = stats()
    assert (counted["audioChunksReceived"], counted["audioChunksProcessed"], counted["counters"]) == expected


def test_chunks_cost_no_command_and_are_written_when_the_socket_closes(
    serve: Callable[..., Server], storage: str
) -> None:
    server = serve("gthread", STORAGE_URI=storage, HEARTBEAT=600, LEASE=1200)
    session = make_session(server)
    client = redis.Redis.from_url(storage)

    def commands() -> int:
        found: int = client.info("commandstats")["cmdstat_evalsha"]["calls"]  # type: ignore[index]
        return found

    with Peer(session["websocketUrl"]) as peer:
        peer.ask(b"?")
        before = commands()
        for _ in range(300):
            peer.say(b"?")
        for _ in range(300):
            peer.until_type("reply")
        assert commands() - before < 10
        path = f"/api/v1/sessions/{session['id']}/stats"
        assert server.client.get(path).json["audioChunksReceived"] == 0
    wait_until(lambda: server.client.get(path).json["audioChunksReceived"] == 301, 5, "the chunks are written")
    assert server.client.get(path).json["audioChunksProcessed"] == 301
