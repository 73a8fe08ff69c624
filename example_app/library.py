"""The texts that come with the application."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TEXTS = Path(__file__).parent / "texts"
WORDS_PER_PAGE = 250
FIELD = re.compile(r"^(\w+): (.*(?:\n .*)*)", re.MULTILINE)


@dataclass(frozen=True)
class BundledText:
    """A public-domain text, where it is from, and a question that it answers."""

    name: str
    title: str
    author: str
    year: str
    source: str
    question: str
    text: str

    @property
    def pages(self) -> int:
        """About how many pages of a book it fills."""
        return max(1, round(len(self.text.split()) / WORDS_PER_PAGE))


@lru_cache(maxsize=1)
def bundled_texts() -> tuple[BundledText, ...]:
    """All of them, the shortest first."""
    return tuple(sorted(map(_load, TEXTS.glob("*.txt")), key=lambda bundled: len(bundled.text)))


def bundled_text(name: str) -> BundledText | None:
    return next((bundled for bundled in bundled_texts() if bundled.name == name), None)


def _load(path: Path) -> BundledText:
    header, text = path.read_text("utf-8").split("\n\n", 1)
    fields = {name.lower(): " ".join(value.split()) for name, value in FIELD.findall(header)}
    return BundledText(name=path.stem, text=text.strip("\n"), **fields)
