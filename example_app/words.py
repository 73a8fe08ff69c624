"""Words as they are compared: without case, without common endings."""

from __future__ import annotations

import re

from example_app.language import word_list

FUNCTION_WORDS = frozenset(word_list("function-words"))
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
RUSSIAN_ENDINGS = word_list("russian-endings")
ENDINGS: tuple[tuple[str, int], ...] = (
    *(("ments", 4), ("ment", 4), ("ions", 5), ("ion", 5), ("edly", 4), ("ings", 3), ("ing", 3), ("ed", 3), ("est", 4)),
    *(("ly", 4), ("es", 3), ("en", 5), ("s", 3), ("e", 3)),
    *((ending, 3) for ending in RUSSIAN_ENDINGS),
)


def words(text: str) -> list[str]:
    """The words of a text in lower case; `don’t` is one word, `Alice’s` is `alice`."""
    return [_bare(word) for word in WORD.findall(text)]


def content_stems(text: str) -> list[str]:
    """The stems of the words that carry a meaning of their own."""
    return [stem(word) for word in words(text) if word not in FUNCTION_WORDS]


def stem(word: str) -> str:
    """The word without its commonest ending: `dedicated`, `dedicates` and `dedicate` are one."""
    if word.endswith(("ies", "ied")) and len(word) > 4:
        return f"{word[:-3]}y"
    if word.endswith("ss"):
        return word
    for ending, shortest in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= shortest:
            return _undouble(word[: -len(ending)])
    return word


def _bare(word: str) -> str:
    return word.casefold().replace("’", "'").removesuffix("'s")


def _undouble(stem: str) -> str:
    return stem[:-1] if len(stem) > 3 and stem[-1] == stem[-2] and stem[-1] not in "aeiousl" else stem
