"""The code blocks and tables of README.md and its guides."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- (?P<name>[^>]+) -->\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@cache
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@cache
def blocks(file: str = "README.md") -> dict[str, str]:
    """The code of the blocks that have a name: a comment before them."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found = [(match["name"], match["code"]) for match in BLOCK.finditer(text)]
    names = [name for name, _ in found]
    assert len(set(names)) == len(names), f"Two blocks have one name: {names}"
    return dict(found)


def section(heading: str) -> str:
    """The text below a heading of the second level."""
    return readme().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of the tables in a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|--")][1:]
