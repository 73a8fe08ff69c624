"""A text into sections of numbered sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from example_app.sentences import split_sentences

USUAL_SECTION = 40
LONGEST_HEADING = 12
LONGEST_TITLE = 120

BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
BROKEN_COMPOUND = re.compile(r"(?<=\w-)\n[^\S\n]*(?=\w)")
LIST_ITEM = re.compile(r"\n(?=[^\S\n]*(?:[-*•–]|\d+[.)])[^\S\n])")
NAMED_HEADING = re.compile(
    r"(?:chapter|section|article|part|book|act|scene|canto|preamble|prologue|epilogue|introduction|conclusion|"
    r"hoofdstuk|artikel|deel|inleiding|kapitel|abschnitt|chapitre|глава|часть|раздел)\b",
    re.IGNORECASE,
)
NUMBER_ALONE = re.compile(r"\w+ (?:[IVXLC]+|\d+)", re.IGNORECASE)
MARKDOWN_HEADING = re.compile(r"#{1,6}\s+")
NUMBERED_HEADING = re.compile(r"\d+(?:\.\d+)*\.?\s+[^\W\d_]")
ENDS_LIKE_A_SENTENCE = re.compile(r"[.!?…:;,。！？][\"'’”»)\]]*$")


@dataclass(frozen=True)
class Sentence:
    """One sentence; `number` and `section` count from 1 through the whole text, `heading` may be empty."""

    number: int
    section: int
    heading: str
    text: str


@dataclass(frozen=True)
class Section:
    """What is read in one step: a chapter, or a part of one, or some paragraphs of a text without headings."""

    number: int
    heading: str
    sentences: tuple[Sentence, ...]


def read_sections(text: str) -> tuple[Section, ...]:
    """The text's sections in order; none for a text without a word."""
    chapters = list(_chapters(text))
    length = sum(len(sentences) for _, sentences in chapters)
    usual = max(3, min(USUAL_SECTION, length // 8))
    sections: list[Section] = []
    first = 1
    for heading, chapter in chapters:
        for part in _parts(chapter, usual):
            number = len(sections) + 1
            sentences = tuple(Sentence(n, number, heading, sentence) for n, sentence in enumerate(part, first))
            sections.append(Section(number, heading, sentences))
            first += len(part)
    return tuple(sections)


def _chapters(text: str) -> Iterator[tuple[str, list[str]]]:
    headings: list[str] = []
    sentences: list[str] = []
    for block in _blocks(text):
        untitled = bool(headings and not sentences and NUMBER_ALONE.fullmatch(headings[-1]))
        if not _is_heading(block, untitled):
            sentences += split_sentences(block)
            continue
        if sentences:
            yield _join(headings), sentences
            headings, sentences = [], []
        headings.append(_heading_text(block))
    if sentences or headings:
        yield (_join(headings), sentences) if sentences else ("", headings)


def _blocks(text: str) -> Iterator[str]:
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n")
    lines = [len(line) for line in text.split("\n") if line.strip()]
    one_line_each = bool(lines) and median(lines) > 120
    text = BROKEN_COMPOUND.sub("", text)
    for block in BLANK_LINES.split(text):
        parts = block.split("\n") if one_line_each else LIST_ITEM.split(block)
        yield from (part for part in parts if any(character.isalnum() for character in part))


def _is_heading(block: str, untitled: bool) -> bool:
    line = block.strip()
    if MARKDOWN_HEADING.match(line) and "\n" not in line:
        return True
    if len(line.split()) > LONGEST_HEADING or len(line) > 100 or line.count("\n") > 1:
        return False
    if NAMED_HEADING.match(line) and not re.search(r"[a-z][.!?]$", line):
        return True
    if untitled:
        return not line.endswith((".", ",", ";", ":"))
    if ENDS_LIKE_A_SENTENCE.search(line):
        return False
    return line.isupper() or NUMBERED_HEADING.match(line) is not None


def _heading_text(block: str) -> str:
    heading = MARKDOWN_HEADING.sub("", " ".join(block.split()))
    return " ".join(word.capitalize() if NAMED_HEADING.fullmatch(word) else word for word in heading.split())


def _join(headings: list[str]) -> str:
    return ", ".join(headings)[:LONGEST_TITLE]


def _parts(sentences: list[str], usual: int) -> Iterator[list[str]]:
    count = max(1, round(len(sentences) / usual))
    for part in range(count):
        yield sentences[part * len(sentences) // count : (part + 1) * len(sentences) // count]
