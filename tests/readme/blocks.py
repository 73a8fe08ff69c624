"""The code blocks and tables of README.md."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^<!-- (?P<name>[^>]+) -->\n```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@lru_cache(maxsize=1)
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def blocks() -> dict[str, str]:
    """The code of the blocks that have a name: a comment before them."""
    found = [(match["name"], match["code"]) for match in BLOCK.finditer(readme())]
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
