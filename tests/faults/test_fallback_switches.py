"""F18, F22: with the fallback switched on a generation lives through faults and failovers, however often it switches.

All of it takes some two minutes: but for one of the faults it needs SESSIONSTATUS_SLOW=1.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from faults import test_exactly_once, test_failovers
from faults.conftest import Started
from faults.generation import Generation
from faults.stores import Fault
from processes.gunicorns import Server

USUAL = ("killed-and-back-empty",)
ALWAYS: list[pytest.MarkDecorator] = []
RARELY = [pytest.mark.skipif(os.environ.get("SESSIONSTATUS_SLOW") != "1", reason="SESSIONSTATUS_SLOW=1 runs it.")]
FAULTS: dict[str, Callable[[str], Fault]] = {
    **{
        name: lambda _, make=make: make()
        for name, make in test_exactly_once.FAULTS.items()
        if name != "scripts-flushed"
    },
    **{name: make for name, make in test_failovers.FAULTS.items() if not name.startswith("slot")},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=ALWAYS if name in USUAL else RARELY) for name in FAULTS])
def test_each_follower_has_every_event_once_and_in_order_however_often_it_switches(
    name: str,
    chance: random.Random,
    serve: Callable[..., Server],
    script: Callable[..., Started],
    conversation_id: str,
) -> None:
    """Here and in processes that cannot know of the generation meanwhile."""
    fault = FAULTS[name](conversation_id)
    try:
        generation = Generation(fault, chance, serve, script, conversation_id, IN_MEMORY_FALLBACK="true")
        generation.run(getattr(fault, "strikes", test_exactly_once.STRIKES))
        generation.each_follower_has_every_event_once_and_in_order()
    finally:
        fault.remove()
