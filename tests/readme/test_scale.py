"""docs/scale.md: each figure follows from the unit costs and assumptions above it; docs/sessions.md: each bound is a
constant."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

import pytest
from readme.blocks import ROOT, rows

from flask_sessionstatus.stores import bounds

TEXT = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
BENCHMARK = (ROOT / "benchmarks/scale.py").read_text(encoding="utf-8")
UNITS: Mapping[str, float] = {
    "": 1, "/s": 1, "bytes": 1, "cores": 1, "shards": 1, "s": 1, "µs": 1e-6, "MB": 1e6, "GB": 1e9, "TB": 1e12,
    "MB/s": 1e6, "GB/s": 1e9, "Gbit/s": 1e9 / 8,
}  # fmt: skip
FIGURE = re.compile(r"^\**(?P<number>[\d,.]+)\** ?(?P<unit>[^\s*]*)\**$")
OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


def section(heading: str) -> str:
    return TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def value(text: str) -> float:
    """A figure with its unit, in bytes, seconds or as a number."""
    match = FIGURE.match(text.strip())
    assert match is not None, text
    return float(match["number"].replace(",", "")) * UNITS[match["unit"]]


def calculated(formula: str, known: Mapping[str, float]) -> float:
    """What a formula of names, numbers and + - * / comes to."""

    def of(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](of(node.left), of(node.right))
        if isinstance(node, ast.Name):
            return known[node.id]
        assert isinstance(node, ast.Constant)
        return float(node.value)  # type: ignore[arg-type]

    return of(ast.parse(formula.replace("×", "*").replace(" ", ""), mode="eval").body)


COSTS = rows(section("What each thing costs"))
ASSUMED = rows(section("What is assumed"))
SIZES = [row for part in ("What it comes to", "Where classic PUBLISH stops") for row in rows(section(part))]


def known() -> dict[str, float]:
    """The figures by name, in the order of the page."""
    found = {row[0].strip("`"): value(row[1]) for row in (*COSTS, *ASSUMED)}
    for row in SIZES:
        if row[0].startswith("`"):
            found[row[0].strip("`")] = value(row[1])
    return found


@pytest.mark.parametrize("row", COSTS, ids=lambda row: row[0])
def test_each_cost_is_measured_by_a_row_of_the_benchmark(row: list[str]) -> None:
    measured = re.findall(r"`([^`]+)`", row[2])
    assert measured
    assert all(name in BENCHMARK for name in measured)


@pytest.mark.parametrize("row", SIZES, ids=lambda row: row[0])
def test_each_figure_follows_from_those_above_it(row: list[str]) -> None:
    formula = re.findall(r"`([^`]+)`", row[2])[0]
    assert value(row[1]) == pytest.approx(calculated(formula, known()), rel=0.03)


def test_the_bounds_in_the_guide_are_those_of_the_code() -> None:
    guide = (ROOT / "docs/sessions.md").read_text(encoding="utf-8")
    table = guide.split("So that no step takes longer", 1)[1].split("\n\n", 2)[1]
    said = [int(re.findall(r"\d+", row[1])[0]) for row in rows(table)]
    assert said == [
        bounds.RECENT_SESSIONS, bounds.LIVE_TASKS, bounds.TASKS, bounds.NAMES, bounds.COUNTERS, bounds.STEP, bounds.STEP
    ]  # fmt: skip
