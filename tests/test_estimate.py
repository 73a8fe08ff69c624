from __future__ import annotations

import pytest

from flask_sessionstatus.estimate import RateMeter, from_history, from_progress


def test_a_steady_rate_gives_the_exact_rest() -> None:
    meter = RateMeter(0.0)
    for second in range(1, 6):
        meter.update(second * 1000.0, second * 10.0)
    assert meter.remaining(100.0) == 5000


def test_nothing_is_known_before_the_first_progress() -> None:
    meter = RateMeter(0.0)
    assert meter.remaining(100.0) is None
    meter.update(1000.0, 0.0)
    assert meter.remaining(100.0) is None


def test_a_rate_that_falls_makes_the_rest_longer() -> None:
    meter = RateMeter(0.0)
    meter.update(1000.0, 50.0)
    fast = meter.remaining(100.0)
    meter.update(11_000.0, 51.0)
    slow = meter.remaining(100.0)
    assert fast is not None
    assert slow is not None
    assert slow > fast


def test_a_meter_follows_a_change_of_rate_within_its_window() -> None:
    meter = RateMeter(0.0)
    for second in range(1, 11):
        meter.update(second * 1000.0, second * 1.0)
    for second in range(11, 41):
        meter.update(second * 1000.0, 10.0 + (second - 10) * 10.0)
    rest = meter.remaining(1310.0)
    assert rest is not None
    assert rest == pytest.approx(100_000, rel=0.1)


def test_going_back_and_a_clock_that_stands_do_no_harm() -> None:
    meter = RateMeter(0.0)
    meter.update(1000.0, 10.0)
    meter.update(1000.0, 20.0)
    meter.update(500.0, 30.0)
    meter.update(2000.0, 5.0)
    rest = meter.remaining(100.0)
    assert rest is None or rest >= 0
    assert meter.remaining(1.0) in (None, 0)


def test_an_estimate_is_never_in_the_past() -> None:
    assert from_progress(5000, 1000, 2000) == 6000
    assert from_progress(5000, 1000, 9000) == 9000


@pytest.mark.parametrize(
    ("durations", "elapsed", "expected"),
    [
        ([], 0, None),
        ([10, 20], 0, None),
        ([10, 20, 30], 0, 20),
        ([10, 20, 30], 15, 25),
        ([10, 20, 30], 29, 30),
        ([10, 20, 30], 30, None),
        ([10, 10, 10, 1000], 10, 1000),
    ],
)
def test_history_counts_only_what_took_longer_than_the_time_elapsed(
    durations: list[int], elapsed: int, expected: int | None
) -> None:
    found = from_history(durations, 1000, 1000 + elapsed)
    assert found == (None if expected is None else 1000 + expected)
