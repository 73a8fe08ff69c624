"""A paragraph into sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

from example_app.language import word_list

MAX_WORDS = 90
MAX_CHARACTERS = 1200

TITLES = frozenset(word_list("titles"))
ABBREVIATIONS = frozenset(word_list("abbreviations"))
OPENERS = frozenset(word_list("openers"))

MARK = re.compile(r"(?:[.!?…؟۔।]{1,9}[\"'’”»)\]]{0,9}(?=\s)|[。！？]{1,9}[」』”）]{0,9})\s*")
LAST_WORD = re.compile(r"[^\s(\[“‘\"'«—]*$")
NEXT_WORD = re.compile(r"[\s\"'“‘«»(\[—–-]*([^\W_]+)?")
DOTTED = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
LIST_NUMBER = re.compile(r"\s*[(\[]?\d+")

CUTS = tuple(re.compile(cut) for cut in (r"(?<=[;:])(?=\s)|(?<=—)", r"(?=\n)", r"(?<=,)(?=\s)", r"(?=\s)"))


def split_sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph, in order, with their white space made single.

    What goes on for more than 90 words or 1200 characters without an end is cut between clauses, else at a line break,
    a comma, a space, or anywhere.
    """
    return [sentence for whole in _whole_sentences(paragraph) for sentence in _cut(whole)]


def _whole_sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for mark in MARK.finditer(paragraph):
        if _ends_sentence(paragraph, start, mark):
            yield paragraph[start : mark.end()]
            start = mark.end()
    yield paragraph[start:]


def _ends_sentence(paragraph: str, start: int, mark: re.Match[str]) -> bool:
    following = NEXT_WORD.match(paragraph, mark.end())
    next_word = (following and following[1]) or ""
    if next_word[:1].islower():
        return False
    if mark[0].strip() != ".":
        return True
    if LIST_NUMBER.fullmatch(paragraph, start, mark.start()):
        return False
    last_word = _last_word(paragraph[max(start, mark.start() - 40) : mark.start()])
    if last_word in ABBREVIATIONS or DOTTED.fullmatch(last_word):
        return next_word.lower() in OPENERS
    return last_word not in TITLES


def _last_word(before: str) -> str:
    word = LAST_WORD.search(before)
    return word[0].lower() if word else ""


def _cut(sentence: str, cuts: tuple[re.Pattern[str], ...] = CUTS) -> Iterator[str]:
    if _fits(sentence):
        if words := sentence.split():
            yield " ".join(words)
    elif not cuts:
        for start in range(0, len(sentence), MAX_CHARACTERS):
            yield sentence[start : start + MAX_CHARACTERS]
    else:
        held = ""
        for piece in cuts[0].split(sentence):
            if held and not _fits(held + piece):
                yield from _cut(held, cuts[1:])
                held = ""
            held += piece
        yield from _cut(held, cuts[1:])


def _fits(sentence: str) -> bool:
    return len(sentence) <= MAX_CHARACTERS and len(sentence.split()) <= MAX_WORDS
