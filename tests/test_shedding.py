"""When those whose stream is closed or turned away come back."""

from __future__ import annotations

from collections import Counter

from harness import Clock

from flask_sessionstatus.streaming.shedding import LONGEST, RATE, Shedding


def test_a_few_come_back_after_a_second() -> None:
    shedding = Shedding(Clock().monotonic)
    assert {shedding.retry() for _ in range(RATE)} == {1000}


def test_a_crowd_comes_back_a_few_at_a_time() -> None:
    shedding = Shedding(Clock().monotonic)
    returns = [shedding.retry() for _ in range(20 * RATE)]
    assert (min(returns), max(returns)) == (1000, 20_000)
    assert max(Counter(each // 1000 for each in returns).values()) <= 2 * RATE


def test_nobody_stays_away_for_longer_than_half_a_minute() -> None:
    shedding = Shedding(Clock().monotonic)
    returns = [shedding.retry() for _ in range(90 * RATE)]
    assert max(returns) <= LONGEST
    assert max(Counter(each // 1000 for each in returns).values()) < 5 * RATE


def test_a_crowd_that_has_passed_makes_nobody_wait() -> None:
    clock = Clock()
    shedding = Shedding(clock.monotonic)
    for _ in range(20 * RATE):
        shedding.retry()
    clock.move(20_000)
    assert shedding.retry() == 1000


def test_those_who_come_back_too_soon_are_spread_further() -> None:
    clock = Clock()
    shedding = Shedding(clock.monotonic)
    longest = []
    for _ in range(4):
        longest.append(max(shedding.retry() for _ in range(5 * RATE)))
        clock.move(1000)
    assert longest == [5000, 9000, 13_000, 17_000]
