"""F1, F3, F17, F18: whatever happens to the store during a generation, each follower has every event exactly once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from faults.conftest import Started
from faults.generation import TIMEOUT, Generation
from faults.stores import Cut, Fault, Forgetful, Killed, Paused
from processes.gunicorns import Server

STRIKES = 20
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
def test_each_follower_has_every_event_once_and_in_order_over_twenty_faults(
    fault: Fault,
    chance: random.Random,
    serve: Callable[..., Server],
    script: Callable[..., Started],
    conversation_id: str,
) -> None:
    generation = Generation(fault, chance, serve, script, conversation_id)
    generation.run(STRIKES)
    generation.each_follower_has_every_event_once_and_in_order()
