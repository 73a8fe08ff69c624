"""F14: over a million events of one task, neither the process that works nor Redis grows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from faults.stores import FaultyRedis

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"
GROWTH = 4.0


@pytest.mark.slow
@pytest.mark.timeout(270)
@pytest.mark.skipif(not SCRIPT.exists(), reason="The benchmarks are not here.")
def test_memory_is_flat_from_a_quarter_of_a_million_events_to_a_million(server: FaultyRedis) -> None:
    said = subprocess.run(
        [sys.executable, str(SCRIPT), "--redis", server.url], capture_output=True, text=True, timeout=240, check=True
    ).stdout
    print(said)  # noqa: T201
    lines = [[float(cell.replace(",", "")) for cell in line.split()] for line in said.splitlines()[1:]]
    measured = {int(events): (process, store) for events, _, process, store in lines}
    process, store = zip(*(measured[events] for events in (250_000, 500_000, 1_000_000)), strict=True)
    assert max(process) - process[0] < GROWTH
    assert max(store) - store[0] < GROWTH
