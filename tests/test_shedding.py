"""When those whose stream is closed or turned away come back."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from harness import Clock

from flask_sessionstatus.streaming.shedding import LATEST_MS, PER_SECOND, STEP_MS, Shedding

IN_TIME = PER_SECOND * LATEST_MS // 1000
"""So many can be told to come back one after the other."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shedding(clock: Clock) -> Shedding:
    return Shedding(clock.monotonic, random.Random(5))


def most_at_once(laters: list[int]) -> int:
    return max(Counter(laters).values())


def test_a_few_come_back_as_usual(shedding: Shedding) -> None:
    assert {shedding.later() for _ in range(10)} == {0}


def test_a_crowd_comes_back_a_few_at_a_time(shedding: Shedding) -> None:
    laters = [shedding.later() for _ in range(20 * PER_SECOND)]
    assert laters == sorted(laters)
    assert most_at_once(laters) == PER_SECOND * STEP_MS // 1000
    assert max(laters) == 20_000 - STEP_MS


def test_of_a_larger_crowd_nobody_stays_away_for_longer(shedding: Shedding) -> None:
    laters = [shedding.later() for _ in range(3 * IN_TIME)]
    assert max(laters) == LATEST_MS
    assert most_at_once(laters) < 10 * PER_SECOND * STEP_MS // 1000


@pytest.mark.parametrize("count", [20 * PER_SECOND, 3 * IN_TIME])
def test_a_crowd_that_has_passed_makes_nobody_wait(clock: Clock, shedding: Shedding, count: int) -> None:
    for _ in range(count):
        shedding.later()
    clock.move(LATEST_MS + STEP_MS)
    assert shedding.later() == 0


def test_those_who_come_back_too_soon_are_spread_further(clock: Clock, shedding: Shedding) -> None:
    latest = []
    for _ in range(4):
        latest.append(max(shedding.later() for _ in range(5 * PER_SECOND)))
        clock.move(1000)
    assert latest == [4900, 8900, 12_900, 16_900]
