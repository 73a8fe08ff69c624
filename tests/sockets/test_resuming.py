"""Lost connections: a client that comes back with its last cursor has every event once, wherever it was cut."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from processes.gunicorns import Server
from sockets.peers import Peer, make_session
from websockets.exceptions import ConnectionClosed

from flask_sessionstatus.models import Cursor

CUTS = 20
TASKS = 4
NUMBERS = 250


@pytest.fixture
def chance() -> random.Random:
    """Randomness that is printed, so that a failure can be had again: SESSIONSTATUS_TEST_SEED=<seed>."""
    seed = int(os.environ.get("SESSIONSTATUS_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"SESSIONSTATUS_TEST_SEED={seed}")  # noqa: T201
    return random.Random(seed)


def work(server: Server, session: dict[str, Any], done: threading.Event) -> None:
    """Task after task in the session, some of them at once."""
    path = f"/start/{session['conversationId']}/{session['id']}"
    for number in range(TASKS):
        task_id = server.client.post(path, upto=NUMBERS, pause=0.004).json["taskId"]
        if number == 1:
            continue
        while server.client.get(f"/api/v1/sessions/{session['id']}/tasks/{task_id}").json["state"] in (
            "pending",
            "running",
        ):
            done.wait(0.02)
    done.set()


@pytest.mark.parametrize("name", ["werkzeug", "gthread", "gevent"])
def test_twenty_cuts_anywhere_lose_and_repeat_nothing(
    running: Callable[[str], Server], name: str, chance: random.Random
) -> None:
    servers = [running(name), running("gthread")]
    session = make_session(servers[0])
    done = threading.Event()
    worker = threading.Thread(target=work, args=(servers[1], session, done), daemon=True)
    seen: list[tuple[str, str]] = []
    cursor: str | None = "0-0"
    cuts = gaps = ends = 0
    worker.start()
    while ends < TASKS:
        server = chance.choice(servers)
        url = session["websocketUrl"].replace(servers[0].url.partition("//")[2], server.url.partition("//")[2])
        peer = Peer(url, cursor)
        patience = chance.randint(0, 60) if cuts < CUTS else 10**9
        try:
            for _ in range(patience):
                peer.receive()
                if len(peer.of("end")) + ends == TASKS:
                    break
        except ConnectionClosed:
            pytest.fail(f"The server closed: {peer.socket.close_code}")
        if chance.random() < 0.5:
            peer.cut()
        else:
            peer.socket.close()
            assert peer.socket.close_code == 1000, "The client's close was not answered."
        cuts += 1
        seen += peer.events
        gaps += len(peer.of("gap"))
        ends += len(peer.of("end"))
        cursor = peer.cursor
    worker.join(30)
    assert cuts > CUTS
    assert gaps == 0
    cursors = [Cursor.parse(cursor) for cursor, _ in seen]
    assert cursors == sorted(set(cursors))
    epochs = sorted({cursor.epoch for cursor in cursors})
    assert len(epochs) == TASKS
    assert cursors == [Cursor(epoch, number) for epoch in epochs for number in range(1, NUMBERS + 2)]
    assert [type for _, type in seen].count("end") == TASKS
