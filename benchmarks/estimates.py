"""How good estimates are: simulated runs, read at half of their true duration, against a linear extrapolation.

    python benchmarks/estimates.py [--runs 500] [--seed 1] [--chart docs/estimates.svg]

Prints a table of medians: the error of the estimate, as a part of the time that was really left. `naive` is time /
fraction done on the same runs, the better of two: with the time when it is read, or when progress was last told. Every
run has its own duration (2 s … 1 h), total (10 … 10,000 units), noise and way of reporting. No time passes and the seed
decides everything: the same figures come out everywhere. --chart draws two of the runs as an SVG.
"""

from __future__ import annotations

import argparse
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from random import Random
from statistics import median

from flask_sessionstatus.estimate import KEPT_DURATIONS, RateMeter, from_history, from_progress

SLICES = 500
"""Into how many parts of equal length a run's pace is cut."""

REPORTING = ("each unit", "clock, often", "clock, seldom", "irregular, often", "irregular, seldom")
"""When progress is told: as each unit is done; 100 … 1,000 or 8 … 30 times a run, in equal or exponential distances."""

Pace = Callable[[float], float]
"""How fast the work goes by the part of the duration that has passed, in any unit."""


@dataclass(frozen=True)
class Shape:
    """A kind of run. `pace` draws one of its paces, `stall` from when to when it stands, as parts of the duration;
    `units` is how the work is divided among the units."""

    name: str
    pace: Callable[[Random], Pace]
    stall: Callable[[Random], tuple[float, float]] | None = None
    units: Sequence[str] = ("equal", "exponential", "lognormal")
    trickle: float = 0.0


@dataclass(frozen=True)
class Simulated:
    """A run that was simulated: when (ms after its begin) which number of units was told."""

    duration: int
    total: int
    reports: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Promise:
    """At most so many times the naive error, and so much more."""

    factor: float
    slack: float = 0.0

    def __str__(self) -> str:
        return f"{self.factor:g}" + (f" + {100 * self.slack:g} pp" if self.slack else "")


@dataclass(frozen=True)
class Row:
    """Median errors over some runs, as parts of the time left, and what is promised of them."""

    name: str
    runs: int
    ours: float
    against: float
    promise: Promise | None

    @property
    def ratio(self) -> float:
        return self.ours / self.against

    @property
    def holds(self) -> bool:
        return self.promise is None or self.ours <= self.promise.factor * self.against + self.promise.slack


# The shapes


def even(random: Random) -> Pace:
    return lambda _: 1.0


def ramp(low: float, high: float) -> Callable[[Random], Pace]:
    """At the end `low` … `high` times as fast as at the begin, in a straight line; below 1 it slows down."""

    def draw(random: Random) -> Pace:
        gain = random.uniform(low, high) - 1
        return lambda part: 1 + gain * part

    return draw


def exponential(low: float, high: float) -> Callable[[Random], Pace]:
    """At the end `low` … `high` times as fast, by the same factor in each second."""

    def draw(random: Random) -> Pace:
        exponent = math.log(random.uniform(low, high))
        return lambda part: math.exp(exponent * part)

    return draw


def power(low: float, high: float) -> Callable[[Random], Pace]:
    """After a part x of the time, x to the power of `low` … `high` is done."""

    def draw(random: Random) -> Pace:
        exponent = random.uniform(low, high) - 1
        return lambda part: part**exponent

    return draw


def jump(low: float, high: float) -> Callable[[Random], Pace]:
    """From some moment in the first 10 … 35 % on `low` … `high` times as fast."""

    def draw(random: Random) -> Pace:
        factor, moment = random.uniform(low, high), random.uniform(0.1, 0.35)
        return lambda part: factor if part >= moment else 1.0

    return draw


def stall_from(low: float, high: float) -> Callable[[Random], tuple[float, float]]:
    """A stall of 10 … 40 % that begins somewhere in `low` … `high`, but is over at half-time."""

    def draw(random: Random) -> tuple[float, float]:
        length = random.uniform(0.1, 0.4)
        begin = random.uniform(low, min(high, 0.5 - length))
        return begin, begin + length

    return draw


def stall_until(low: float, high: float) -> Callable[[Random], tuple[float, float]]:
    """A stall of 10 … 40 % that ends somewhere in `low` … `high`."""

    def draw(random: Random) -> tuple[float, float]:
        end = random.uniform(low, high)
        return end - random.uniform(0.1, 0.4), end

    return draw


CLASSES: dict[str, tuple[Promise | None, Sequence[Shape]]] = {
    "steady": (
        Promise(1.1, 0.02),
        [
            Shape("equal units", even, units=["equal"]),
            Shape("uneven units (exponential)", even, units=["exponential"]),
            Shape("uneven units (log-normal)", even, units=["lognormal"]),
            Shape("in batches, with pauses", even, units=["batches"]),
        ],
    ),
    "accelerating": (
        Promise(0.8),
        [
            Shape("ramp to 1.5 … 3 ×", ramp(1.5, 3)),
            Shape("ramp to 3 … 20 ×", ramp(3, 20)),
            Shape("exponential to 2 … 5 ×", exponential(2, 5)),
            Shape("exponential to 5 … 50 ×", exponential(5, 50)),
            Shape("power of 1.3 … 3", power(1.3, 3)),
            Shape("jump to 2 … 5 ×", jump(2, 5)),
        ],
    ),
    "stalled": (
        Promise(0.75),
        [
            Shape("from the begin", even, stall_from(0.0, 0.0)),
            Shape("early", even, stall_from(0.02, 0.1)),
            Shape("anywhere", even, stall_from(0.02, 0.4)),
            Shape("until shortly before half-time", even, stall_until(0.45, 0.5)),
            Shape("anywhere, at 2 % of the pace", even, stall_from(0.02, 0.4), trickle=0.02),
        ],
    ),
    "still standing": (
        None,
        [
            Shape("goes on shortly after half-time", even, stall_until(0.5, 0.55)),
            Shape("goes on later", even, stall_until(0.55, 0.8)),
        ],
    ),
    "slowing down": (
        None,
        [
            Shape("ramp to a half … a fifth", ramp(0.2, 0.5)),
            Shape("drop to a half … a twentieth", jump(0.05, 0.5)),
        ],
    ),
}
"""The classes, and what is promised of each at half-time; without a promise: what nobody can know by then."""


# The runs


def simulate(random: Random, shape: Shape, reporting: str) -> Simulated:
    """One run of a shape; whether it goes on telling the same number in a stall, or is silent, is drawn too."""
    pace = shape.pace(random)
    begin, end = shape.stall(random) if shape.stall is not None else (1.0, 1.0)
    silent = random.random() < 0.5
    duration = round(math.exp(random.uniform(math.log(2_000), math.log(3_600_000))))
    total = round(math.exp(random.uniform(math.log(10), math.log(10_000))))

    parts, spread = random.choice((20, 100, 500)), random.uniform(0.1, 0.6)
    noise = [random.lognormvariate(0, spread) for _ in range(parts)]
    speeds = [pace((i + 0.5) / SLICES) * noise[i * parts // SLICES] for i in range(SLICES)]
    for i in range(round(begin * SLICES), round(end * SLICES)):
        speeds[i] *= shape.trickle
    done = _parts_of_one([0.0, *accumulate(speeds)])
    units = _parts_of_one([*accumulate(_sizes(random, random.choice(shape.units), total))])

    if reporting == "each unit":
        told = [(_when(done, unit), number) for number, unit in enumerate(units, start=1)]
    else:
        moments = _moments(random, reporting)
        told = [
            (moment, bisect_right(units, _at(done, moment) + 1e-12))
            for moment in moments
            if not (silent and begin <= moment < end)
        ]
    return Simulated(duration, total, [(round(moment * duration), number) for moment, number in told])


def _parts_of_one(sums: Sequence[float]) -> list[float]:
    return [each / sums[-1] for each in sums]


def _sizes(random: Random, units: str, total: int) -> Iterator[float]:
    """How much work each unit is. A batch is a wait, as before an answer, and then its units in quick succession."""
    batches = min(total, round(math.exp(random.uniform(math.log(10), math.log(100)))))
    length, rest = total // batches, random.uniform(0.01, 0.3)
    for number in range(total):
        if units == "equal":
            yield 1.0
        elif units == "exponential":
            yield random.expovariate(1)
        elif units == "lognormal":
            yield random.lognormvariate(0, 1)
        else:
            yield random.lognormvariate(0, 0.2) if number % length == 0 else rest / length


def _moments(random: Random, reporting: str) -> list[float]:
    times = random.randint(100, 1000) if reporting.endswith("often") else random.randint(8, 30)
    if reporting.startswith("clock"):
        return [number / times for number in range(1, times + 1)]
    distances = [random.expovariate(times) for _ in range(3 * times)]
    return [*(moment for moment in accumulate(distances) if moment < 1), 1.0]


def _at(done: Sequence[float], moment: float) -> float:
    """How much is done at a moment."""
    slice, rest = divmod(moment * SLICES, 1)
    before, after = done[int(slice)], done[min(int(slice) + 1, SLICES)]
    return before + (after - before) * rest


def _when(done: Sequence[float], work: float) -> float:
    """When so much is done."""
    slice = min(max(bisect_right(done, work), 1), SLICES)
    before, after = done[slice - 1], done[slice]
    return (slice - 1 + ((work - before) / (after - before) if after > before else 0.0)) / SLICES


# The reading


def estimates(run: Simulated, moments: Sequence[int]) -> Iterator[tuple[int, float, float] | None]:
    """At each moment (ms): when the run ends by our estimate, and by the naive ones of the reader and of the last
    report; None where nothing is known."""
    meter = RateMeter(0.0)
    position = told_at = current = 0
    remaining: int | None = None
    for moment in moments:
        while position < len(run.reports) and run.reports[position][0] <= moment:
            told_at, current = run.reports[position]
            meter.update(float(told_at), float(current))
            remaining = meter.remaining(float(run.total))
            position += 1
        if remaining is None or not current:
            yield None
        else:
            naive = run.total / current
            yield from_progress(remaining, told_at, moment), moment * naive, max(moment, told_at * naive)


def errors(run: Simulated) -> tuple[float, ...] | None:
    """The errors at half-time, as parts of the time left: ours, the naive ones."""
    found = next(estimates(run, [run.duration // 2]))
    return None if found is None else tuple(abs(end - run.duration) / (run.duration / 2) for end in found)


def rows_of(name: str, runs: int, seed: int) -> list[Row]:
    """One class: its shapes, its ways of reporting, and all of it."""
    promise, shapes = CLASSES[name]
    found: dict[str, list[tuple[float, ...]]] = {}
    for shape in shapes:
        random = Random(f"{seed} {name} {shape.name}")
        for number in range(runs):
            reporting = REPORTING[number % len(REPORTING)]
            error = errors(simulate(random, shape, reporting))
            if error is not None:
                for row in (shape.name, f"told: {reporting}", "all"):
                    found.setdefault(row, []).append(error)
    rows = []
    for row, each in found.items():
        ours, reading, telling = (median(column) for column in zip(*each))
        rows.append(Row(row, len(each), ours, min(reading, telling), promise))
    return sorted(rows, key=lambda row: (row.name == "all", row.name.startswith("told")))


def history_rows(runs: int, seed: int) -> list[Row]:
    """Without progress: log-normal durations, 20 earlier ones of the same kind, read at half-time as well. Against
    the constant that would have been best for these very runs, which nobody knows beforehand."""
    rows, ours, against = [], [], []
    for spread in (0.25, 0.5, 1.0):
        random = Random(f"{seed} history {spread}")
        found, durations = [], []
        for _ in range(runs):
            middle = random.uniform(math.log(2_000), math.log(3_600_000))
            past = [round(random.lognormvariate(middle, spread)) for _ in range(KEPT_DURATIONS)]
            duration = round(random.lognormvariate(middle, spread))
            end = from_history(past, 0, duration // 2)
            if end is not None:
                found.append(abs(end - duration) / (duration / 2))
                durations.append(duration / math.exp(middle))
        best = min(
            (
                [abs(guess - duration) / (duration / 2) for duration in durations]
                for guess in (math.exp(spread * step / 20) for step in range(-60, 61))
            ),
            key=median,
        )
        rows.append(Row(f"log-normal, spread {spread:g}", len(found), median(found), median(best), None))
        ours += found
        against += best
    return [*rows, Row("all", len(ours), median(ours), median(against), Promise(1.0))]


def tables(runs: int, seed: int) -> dict[str, list[Row]]:
    """All rows by class."""
    return {**{name: rows_of(name, runs, seed) for name in CLASSES}, "without progress": history_rows(5 * runs, seed)}


# The chart


WIDTH, HEIGHT, TOP = 340, 240, 250
"""A panel's size in pixels, and how far up it shows, in % of the true duration."""

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #333 } .title { font-weight: 600 } .paper { fill: #fff }
  path { fill: none; stroke-width: 2 } .grid { stroke: #ddd; stroke-width: 1 } .true { stroke: #777 }
  .ours { stroke: #0b62c4 } .naive { stroke: #b45309; stroke-dasharray: 5 3 } .stall { fill: #0000000f }
  @media (prefers-color-scheme: dark) {
    text { fill: #ccc } .paper { fill: #15181d } .grid { stroke: #333 } .true { stroke: #999 }
    .ours { stroke: #6db3ff } .naive { stroke: #f2a65a } .stall { fill: #ffffff14 }
  }
"""


def chart(seed: int) -> str:
    """Two runs as an SVG: when they end by the estimates, over the time at which these are read."""
    stalled = Shape("stalled", even, lambda _: (0.15, 0.4), units=["exponential"])
    accelerating = Shape("accelerating", exponential(4, 4), units=["exponential"])
    legend = [(0, "ours", "this estimate"), (130, "naive", "time / fraction done"), (300, "true", "true end")]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH + 150} {HEIGHT + 130}" role="img"',
            '  aria-label="Estimated and true end of a stalled and an accelerating run, over time">',
            f"<style>{STYLE}</style>",
            '<rect class="paper" width="100%" height="100%" rx="6"/>',
            _panel(50, "Stands still from 15 to 40 % of its time", stalled, Random(f"{seed} chart")),
            _panel(WIDTH + 120, "Gets four times as fast", accelerating, Random(f"{seed} chart")),
            *(
                f'<path class="{kind}" d="M{50 + left},{HEIGHT + 112}h24"/>'
                f'<text x="{80 + left}" y="{HEIGHT + 116}">{text}</text>'
                for left, kind, text in legend
            ),
            "</svg>\n",
        ]
    )


def _panel(left: int, title: str, shape: Shape, random: Random) -> str:
    runs = (simulate(random, shape, "clock, often") for _ in count())
    run = next(run for run in runs if run.total >= 100)
    moments = [run.duration * step // 300 for step in range(1, 300)]
    found = [(moment, ends) for moment, ends in zip(moments, estimates(run, moments)) if ends is not None]

    def x(part: float) -> float:
        return left + WIDTH * part

    def y(percent: float) -> float:
        return 56 + HEIGHT * (1 - min(percent, TOP) / TOP)

    def line(kind: str, ends: int) -> str:
        points = [f"{x(at / run.duration):.1f},{y(100 * each[ends] / run.duration):.1f}" for at, each in found]
        return f'<path class="{kind}" d="M{" ".join(points)}"/>'

    begin, end = shape.stall(random) if shape.stall is not None else (0.0, 0.0)
    return "\n".join(
        [
            f'<text class="title" x="{left}" y="24">{title}</text>',
            f'<rect class="stall" x="{x(begin)}" y="{y(TOP)}" width="{WIDTH * (end - begin)}" height="{HEIGHT}"/>',
            *(
                f'<path class="grid" d="M{left},{y(percent)}h{WIDTH}"/>'
                f'<text x="{left - 6}" y="{y(percent) + 4}" text-anchor="end">{percent}</text>'
                for percent in range(0, TOP + 1, 50)
            ),
            *(
                f'<text x="{x(percent / 100)}" y="{y(0) + 18}" text-anchor="middle">{percent}</text>'
                for percent in range(0, 101, 25)
            ),
            f'<text x="{x(0.5)}" y="{y(0) + 36}" text-anchor="middle">read at, % of the duration</text>',
            f'<text x="{left}" y="42">estimated end, % of the duration</text>',
            f'<path class="true" d="M{left},{y(100)}h{WIDTH}"/>',
            line("naive", 1),
            line("ours", 0),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500, help="simulated runs of each shape")
    parser.add_argument(
        "--seed", type=int, default=1, help="what the random runs begin with; the same gives the same runs (1)"
    )
    parser.add_argument("--chart", type=Path, metavar="FILE", help="write the chart there instead")
    arguments = parser.parse_args()
    if arguments.chart is not None:
        arguments.chart.write_text(chart(arguments.seed), encoding="utf-8")
        return
    print(f"{'class':18}{'shape':34}{'runs':>6} {'ours':>7} {'naive':>7} {'ratio':>6}  promise")
    for name, rows in tables(arguments.runs, arguments.seed).items():
        for row in rows:
            promise = "" if row.promise is None else f"{row.promise}{'' if row.holds else '  MISSED'}"
            print(f"{name:18}{row.name:34}{row.runs:6} {row.ours:7.1%} {row.against:7.1%} {row.ratio:6.2f}  {promise}")


if __name__ == "__main__":
    main()
