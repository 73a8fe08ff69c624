from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from harness import START, Clock, a_session, a_task
from hypothesis import given
from hypothesis import strategies as st

from flask_sessionstatus import InvalidValue
from flask_sessionstatus.estimate import FURTHEST, RateMeter, from_history, from_progress
from flask_sessionstatus.models import Task
from flask_sessionstatus.runs import Engine, Run
from flask_sessionstatus.stores.base import Limits
from flask_sessionstatus.stores.memory import MemoryStore

SIMULATION = Path(__file__).parents[1] / "benchmarks" / "estimates.py"

gaps = st.integers(1, 100_000)
steps = st.integers(1, 100_000)
work = st.lists(st.tuples(gaps, steps), min_size=1, max_size=30)
amounts = st.floats(-1e14, 1e14) | st.integers(0, 100).map(float)


def meter_after(gaps: Sequence[float], steps: Sequence[float]) -> RateMeter:
    """A meter that was told of each step after its gap (ms)."""
    meter = RateMeter(0.0)
    for now, current in zip(accumulate(gaps), accumulate(steps)):
        meter.update(float(now), float(current))
    return meter


def rest(meter: RateMeter, total: float) -> int:
    found = meter.remaining(total)
    assert found is not None
    return found


# The rate


def test_a_steady_rate_gives_the_exact_rest() -> None:
    assert rest(meter_after([1000] * 5, [10] * 5), 100.0) == 5000


def test_nothing_is_known_before_the_first_progress() -> None:
    meter = RateMeter(0.0)
    assert meter.remaining(100.0) is None
    meter.update(1000.0, 0.0)
    assert meter.remaining(100.0) is None


def test_a_first_report_of_nothing_begins_the_work() -> None:
    meter = RateMeter(0.0)
    meter.update(60_000.0, 0.0)
    meter.update(61_000.0, 1.0)
    assert rest(meter, 10.0) == 9000


def test_later_reports_of_nothing_leave_the_begin_where_it_is() -> None:
    meter = RateMeter(0.0)
    for now in range(0, 10_000, 250):
        meter.update(float(now), 0.0)
    meter.update(10_000.0, 1.0)
    assert rest(meter, 2.0) == 10_000


def test_a_rate_that_falls_makes_the_rest_longer() -> None:
    meter = meter_after([1000], [50])
    fast = rest(meter, 100.0)
    meter.update(11_000.0, 51.0)
    assert rest(meter, 100.0) > fast


def test_a_meter_follows_a_change_of_rate_within_its_window() -> None:
    meter = meter_after([1000] * 40, [1] * 10 + [10] * 30)
    assert rest(meter, 1310.0) == pytest.approx(100_000, rel=0.1)


def test_the_window_scales_with_the_time_worked() -> None:
    """A new rate is nearly all that counts once it has lasted as long as the old one: after seconds, after hours."""
    for pace in (10, 1000, 100_000):
        meter = meter_after([pace] * 200, [1] * 100 + [3] * 100)
        assert rest(meter, 400.0 + 300) == pytest.approx(117 * pace, rel=0.01)


def test_a_stall_moves_the_end_by_as_long_as_it_lasts() -> None:
    meter = meter_after([1000] * 10, [1] * 10)
    meter.update(60_000.0, 10.0)
    assert rest(meter, 20.0) == pytest.approx(10_000, abs=2000)
    meter.update(70_000.0, 10.0)
    assert rest(meter, 20.0) == pytest.approx(10_000, abs=2000)
    meter.update(71_000.0, 11.0)
    assert rest(meter, 20.0) == pytest.approx(9000, rel=0.25)


def test_a_usual_wait_moves_nothing() -> None:
    """Reports between the steps leave the end where the last step put it."""
    meter = meter_after([1000] * 10, [1] * 10)
    for now in range(10_000, 12_000, 100):
        meter.update(float(now), 10.0)
        assert now + rest(meter, 20.0) == 20_000


def test_a_pause_that_comes_again_belongs_to_the_pace() -> None:
    """Ten units at once, then 10 s of nothing: that is one unit a second."""
    gaps = [10_000, *[1] * 9] * 20
    assert rest(meter_after(gaps, [1] * 200), 400.0) == pytest.approx(200_000, rel=0.3)
    assert rest(meter_after(gaps[1:], [1] * 199), 399.0) == pytest.approx(200_000, rel=0.3)


def test_what_was_there_already_is_soon_forgotten() -> None:
    """Work that goes on from half of it, at one unit a second."""
    meter = meter_after([10, *[1000] * 20], [500, *[1] * 20])
    assert rest(meter, 1000.0) == pytest.approx(480_000, rel=0.1)


def test_a_new_phase_is_measured_by_itself() -> None:
    meter = meter_after([1000] * 10, [10] * 10)
    meter.update(11_000.0, 0.0)
    assert meter.remaining(5.0) is None
    meter.update(16_000.0, 1.0)
    assert rest(meter, 5.0) == 20_000


def test_a_report_that_was_overtaken_changes_no_rate() -> None:
    straight, overtaken = meter_after([1000] * 10, [1] * 10), meter_after([1000] * 10, [1] * 10)
    overtaken.update(10_500.0, 9.0)
    for meter in (straight, overtaken):
        meter.update(11_000.0, 11.0)
    assert rest(overtaken, 20.0) == rest(straight, 20.0)


def test_what_comes_within_one_millisecond_counts_together() -> None:
    assert rest(meter_after([1000, 0, 0, 1000, 0, 0], [1] * 6), 12.0) == rest(
        meter_after([1000, 1000, 0], [1, 3, 2]), 12.0
    )


def test_beyond_the_total_nothing_is_left() -> None:
    assert rest(meter_after([1000], [10]), 5.0) == 0
    assert rest(meter_after([1000], [10]), -5.0) == 0


@given(st.lists(st.tuples(st.integers(-1000, 10**9), amounts, amounts), max_size=30))
def test_whatever_is_told_the_rest_is_a_bounded_number_or_none(reports: list[tuple[int, float, float]]) -> None:
    meter, now = RateMeter(0.0), 0.0
    for gap, current, total in reports:
        now += gap
        meter.update(now, current)
        found = meter.remaining(total)
        assert found is None or (isinstance(found, int) and 0 <= found <= FURTHEST)
        if found is not None and total <= current:
            assert found == 0


@given(work, st.integers(0, 10**6))
def test_twice_the_rate_halves_the_rest(work: list[tuple[int, int]], left: int) -> None:
    gaps, steps = zip(*work)
    once, twice = meter_after(gaps, steps), meter_after(gaps, [2 * step for step in steps])
    assert 2 * rest(twice, 2 * sum(steps) + left) == pytest.approx(rest(once, sum(steps) + left), abs=2)


@given(work, st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_more_is_left_the_longer_it_takes(work: list[tuple[int, int]], left: int, more: int) -> None:
    gaps, steps = zip(*work)
    meter = meter_after(gaps, steps)
    assert rest(meter, sum(steps) + left + more) >= rest(meter, sum(steps) + left)


@given(work, st.integers(0, 10**6), st.integers(-40, 40))
def test_the_unit_does_not_matter(work: list[tuple[int, int]], left: int, power: int) -> None:
    gaps, steps = zip(*work)
    unit = 2.0**power
    other = meter_after(gaps, [step * unit for step in steps])
    assert rest(other, (sum(steps) + left) * unit) == rest(meter_after(gaps, steps), sum(steps) + left)


@given(work, st.integers(0, 10**6), st.integers(2, 1000))
def test_a_slower_clock_sees_the_same(work: list[tuple[int, int]], left: int, factor: int) -> None:
    gaps, steps = zip(*work)
    total = sum(steps) + left
    slower = rest(meter_after([gap * factor for gap in gaps], steps), total)
    assert min(slower, FURTHEST // 2) == pytest.approx(
        min(factor * rest(meter_after(gaps, steps), total), FURTHEST // 2), rel=1e-6, abs=factor
    )


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 10))
def test_how_finely_the_work_reports_does_not_matter(first: int, second: int, faster: int) -> None:
    once = meter_after([720, 720], [720, 720 * faster])
    finely = meter_after(
        [720 / first] * first + [720 / second] * second, [720 / first] * first + [720 * faster / second] * second
    )
    assert rest(finely, 10**6) == pytest.approx(rest(once, 10**6), rel=1e-6, abs=1)


# The end


@given(st.integers(0, FURTHEST), st.integers(0, 10**13), st.integers(0, 10**13))
def test_an_estimate_is_never_in_the_past(remaining: int, measured_at: int, now: int) -> None:
    assert from_progress(remaining, measured_at, now) == max(measured_at + remaining, now)


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


@given(st.lists(st.integers(0, 10**9), max_size=20), st.integers(0, 10**9))
def test_history_promises_no_end_in_the_past_and_none_later_than_the_longest(durations: list[int], now: int) -> None:
    found = from_history(durations, 0, now)
    assert (found is None) == (len(durations) < 3 or max(durations) <= now)
    assert found is None or now < found <= max(durations)


# How good it is


@pytest.fixture(scope="module")
def simulation() -> Any:
    if not SIMULATION.exists():
        pytest.skip("The benchmarks are not here.")
    spec = importlib.util.spec_from_file_location("estimates", SIMULATION)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["steady", "accelerating", "stalled"])
def test_at_half_time_progress_beats_a_linear_extrapolation_as_promised(simulation: Any, name: str) -> None:
    rows = simulation.rows_of(name, 200, seed=1)
    assert min(row.runs for row in rows) >= 140
    assert [row for row in rows if row.promise is None or not row.holds] == []


def test_the_promises_are_those_of_the_documentation(simulation: Any) -> None:
    promised = {name: (promise.factor, promise.slack) for name, (promise, _) in simulation.CLASSES.items() if promise}
    assert promised == {"steady": (1.1, 0.02), "accelerating": (0.8, 0.0), "stalled": (0.75, 0.0)}


def test_at_half_time_history_is_no_worse_than_the_best_constant(simulation: Any) -> None:
    """Only where all durations are nearly the same does hindsight find a slightly better middle than twenty do."""
    narrow, *wide, together = simulation.history_rows(1000, seed=1)
    assert narrow.ratio <= 1.1
    assert [row for row in (*wide, together) if row.ratio > 1] == []


# As a run feeds it


class Bench:
    """An engine whose store and runs live by one clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(Limits(), clock=self.clock)
        self.engine = Engine(self.store)
        self.engine.outbox._monotonic = self.clock.monotonic

    def run(self, **fields: Any) -> Run:
        return Run(self.engine, a_session(), a_task(**fields), monotonic=self.clock.monotonic)

    def after(self, run: Run, ms: int, *progress: Any) -> Task:
        """The task as it stands once it told its progress after so long."""
        self.clock.move(ms)
        run.progress(*progress)
        assert run.flush(5)
        found = self.store.task("s1", "t1")
        assert found is not None
        return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.engine.shutdown(5)


def test_without_a_total_progress_says_nothing_of_the_end(bench: Bench) -> None:
    with bench.run() as run:
        found = bench.after(run, 1000, 5)
    assert (found.estimated_completion, found.estimate_basis) == (None, None)


def test_without_a_total_the_estimate_is_that_of_history(bench: Bench) -> None:
    for duration in (10_000, 20_000, 30_000):
        bench.store.record_duration("report", duration)
    with bench.run(type="report") as run:
        found = bench.after(run, 1000, 5)
        assert (found.estimated_completion, found.estimate_basis) == (START + 20_000, "history")
        found = bench.after(run, 1000, 10, 20)
        assert (found.estimated_completion, found.estimate_basis) == (START + 4000, "progress")


def test_a_total_that_was_told_once_holds(bench: Bench) -> None:
    with bench.run() as run:
        bench.after(run, 1000, 1, 10)
        found = bench.after(run, 3000, 2)
    assert found.estimated_completion is not None
    assert found.estimated_completion > START + 14_000


def test_a_total_that_shrinks_or_grows_counts_at_once(bench: Bench) -> None:
    with bench.run() as run:
        assert bench.after(run, 1000, 1, 100).estimated_completion == START + 100_000
        assert bench.after(run, 1000, 2, 4).estimated_completion == START + 4000
        assert bench.after(run, 1000, 3, 2).estimated_completion == START + 3000
        assert bench.after(run, 1000, 4, 8).estimated_completion == START + 8000


def test_a_pending_task_has_no_estimate_and_its_wait_is_no_work(bench: Bench) -> None:
    run = bench.run(pending=True)
    run.begin()
    bench.clock.move(20_000)
    run.progress(0, 10)
    assert run.flush(5)
    assert bench.store.task("s1", "t1").estimated_completion is None  # type: ignore[union-attr]
    with run:
        assert bench.after(run, 1000, 1, 10).estimated_completion == START + 30_000


def test_a_retry_starts_afresh(bench: Bench) -> None:
    with bench.run() as run:
        bench.after(run, 1000, 1, 1000)
    with bench.run(attempt=2, token="second") as run:
        assert bench.store.task("s1", "t1").estimated_completion is None  # type: ignore[union-attr]
        begun = bench.clock.now
        assert bench.after(run, 2000, 1, 2).estimated_completion == begun + 4000


def test_the_estimate_of_a_task_that_ended_is_its_end(bench: Bench) -> None:
    with bench.run() as run:
        bench.after(run, 1000, 1, 1000)
        bench.clock.move(500)
    found = bench.store.task("s1", "t1")
    assert found is not None
    assert (found.estimated_completion, found.estimate_basis) == (bench.clock.now, None)


def test_progress_that_is_refused_leaves_the_estimate_as_it_is(bench: Bench) -> None:
    with bench.run() as run:
        bench.after(run, 1000, 1, 10)
        bench.clock.move(1000)
        with pytest.raises(InvalidValue, match="message"):
            run.progress(9, 20, "x" * 1000)
        assert bench.after(run, 0, 2).estimated_completion == START + 10_000


def test_changes_that_follow_each_other_quickly_end_at_the_time_that_was_meant(bench: Bench) -> None:
    """The second waits for a quarter of a second, and the rest that it tells goes on passing meanwhile."""
    with bench.run() as run:
        bench.after(run, 1000, 1, 10)
        bench.clock.move(100)
        run.progress(2, 10)
        bench.clock.move(150)
        assert run.flush(5)
        found = bench.store.task("s1", "t1")
        assert found is not None
        assert found.progress.current == 2
        expected = run._meter.remaining(10.0)  # type: ignore[union-attr]
        assert found.estimated_completion == START + 1100 + expected
