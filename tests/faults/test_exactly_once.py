"""F1, F3, F17, F18: whatever happens to the store during a generation, each follower has every event exactly once."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest
from faults.conftest import Started, hear, say
from faults.followers import Follower
from faults.stores import Cut, Fault, Forgetful, Killed, Paused
from processes.client import Client, wait_until
from processes.gunicorns import Gunicorn

EVENTS, STRIKES = 20_000, 20
TIMEOUT = 0.25
SETTINGS = {
    "LEASE": 10,
    "HEARTBEAT": 1,
    "MAX_EVENTS": EVENTS + 10,
    "STORAGE_OPTIONS": f'{{"socket_timeout": {TIMEOUT}, "socket_connect_timeout": {TIMEOUT}}}',
}
FAULTS: dict[str, Callable[[], Fault]] = {
    "killed-and-back-empty": Killed,
    "killed-and-back-with-its-data": lambda: Killed(persistent=True),
    "paused": lambda: Paused(TIMEOUT),
    "scripts-flushed": Forgetful,
    "network-cut": Cut,
}


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Iterator[Fault]:
    fault = FAULTS[request.param]()
    yield fault
    fault.remove()


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_each_follower_has_every_event_once_and_in_order_over_twenty_faults(
    fault: Fault,
    chance: random.Random,
    serve: Callable[..., Gunicorn],
    script: Callable[..., Started],
    conversation_id: str,
) -> None:
    producer = script("producer.py", conversation_id, STORAGE_URI=fault.uris[0], **SETTINGS)
    web = serve("--workers", "2", "--threads", "8", STORAGE_URI=fault.uris[1], **SETTINGS)
    port, session_id, _ = hear(producer).split()
    path = f"{web.client.conversation(conversation_id)}/resume/{session_id}"
    here, elsewhere = Client(f"http://127.0.0.1:{port}"), web.client
    followers = [
        Follower([here], path),
        Follower([here], path),
        Follower([elsewhere], path),
        Follower([elsewhere], path, random.Random(chance.random())),
        Follower([elsewhere], path, random.Random(chance.random())),
    ]
    began = time.monotonic()
    for strike in range(1, STRIKES + 1):
        upto = strike * EVENTS // STRIKES
        say(producer, upto)
        time.sleep(chance.uniform(0, 0.2))
        fault.strike(chance)
        assert hear(producer) == str(upto)
        if chance.random() < 0.5:
            wait_until(lambda upto=upto: len(followers[2].frames) >= upto or followers[2].refused, 10, f"event {upto}")
    assert producer.stdin is not None
    producer.stdin.close()
    assert hear(producer) == "ended"
    for follower in followers:
        follower.join(10)
    print(f"{time.monotonic() - began:.1f} s, drops: {[each.drops for each in followers]}")  # noqa: T201

    for follower in followers:
        assert follower.refused == []
        assert follower.gaps == []
        assert follower.numbers == list(range(EVENTS))
        assert [(end.data["state"], end.id == follower.cursor) for end in follower.ends] == [("completed", True)]
    assert all(follower.drops > 3 for follower in followers[3:])
    assert elsewhere.get(path, **{"Last-Event-ID": str(followers[0].cursor)}).status == 204
    for follower in followers:
        follower.stop()
