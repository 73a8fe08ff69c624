"""docs/deaths.md: each row names the test that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme.blocks import ROOT

TESTS = Path(__file__).parents[1]
SHOWN_BY = re.compile(r"`(?P<file>[\w/]+\.py)::(?P<name>\w+)`")


def rows() -> list[str]:
    text = (ROOT / "docs/deaths.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines if not re.match(r"\|(-+\||\s*what happens\b)", line)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip()[:60])
def test_each_row_is_a_test(row: str) -> None:
    shown = SHOWN_BY.findall(row.rstrip("|").rpartition("|")[2])
    assert shown, "No test is named."
    for file, name in shown:
        assert re.search(rf"^\s*(async )?def {name}\w*\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)
