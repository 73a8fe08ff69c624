"""The names that texts use: what a question about them can be about."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from example_app.sections import read_sections
from example_app.words import FUNCTION_WORDS, WORD, content_stems, words

BEGINS = re.compile(r"(?:^|[.!?:;—\"“”‘«(\[])\W*$")
WITHIN_A_NAME = re.compile(r" (?:of (?:the )?)?")


@dataclass(frozen=True)
class Mention:
    """A name in a question, from character `start` to `end`.

    `name` is the name as the texts write it, and `uses` how often they do: 0 when they do not.
    """

    start: int
    end: int
    name: str
    uses: int


class Names:
    """The names of some texts: what they write with a capital inside sentences, and more often so than without."""

    def __init__(self, texts: Iterable[str]) -> None:
        sections = [section for text in texts for section in read_sections(text)]
        sentences = [sentence.text for section in sections for sentence in section.sentences]
        named = [_bare(name) for sentence in sentences for name in _names(sentence)]
        plain = Counter(word for sentence in sentences for word in WORD.findall(sentence) if word.islower())
        uses = Counter(tuple(words(name)) for name in named)
        self._uses = {
            key: count
            for key, count in uses.items()
            if count > plain[" ".join(key)] and not FUNCTION_WORDS.issuperset(key)
        }
        self._written = {tuple(words(name)): name for name in named}
        self._longest = max(map(len, self._uses), default=0)
        self._stems = frozenset(stem for sentence in sentences for stem in content_stems(sentence))

    def mentions(self, question: str) -> list[Mention]:
        """The names in a question, in its order, however they are written; a new one is known by its capital."""
        found: list[Mention] = []
        spoken = list(WORD.finditer(question))
        while spoken:
            key = self._longest_name([words(word[0])[0] for word in spoken])
            first, last = spoken[0], spoken[max(0, len(key) - 1)]
            if key or _is_new_name(question, first):
                said = _bare(question[first.start() : last.end()])
                end = first.start() + len(said)
                found.append(Mention(first.start(), end, self._written.get(key, said), self._uses.get(key, 0)))
            spoken = spoken[max(1, len(key)) :]
        return found

    def know(self, phrase: str) -> bool:
        """Whether the texts use the words of the phrase, as names or not."""
        return self._stems.issuperset(content_stems(phrase))

    def _longest_name(self, spoken: list[str]) -> tuple[str, ...]:
        """The longest name that these words begin with; empty without one."""
        for length in range(min(self._longest, len(spoken)), 0, -1):
            if tuple(spoken[:length]) in self._uses:
                return tuple(spoken[:length])
        return ()


def _names(passage: str) -> Iterator[str]:
    """Every run of words with a capital; not what only begins a sentence."""
    run: list[re.Match[str]] = []
    for word in WORD.finditer(passage):
        if not word[0][0].isupper():
            continue
        if run and not WITHIN_A_NAME.fullmatch(passage, run[-1].end(), word.start()):
            yield passage[run[0].start() : run[-1].end()]
            run = []
        if run or not BEGINS.search(passage[: word.start()]):
            run.append(word)
    if run:
        yield passage[run[0].start() : run[-1].end()]


def _bare(name: str) -> str:
    return name.removesuffix("'s").removesuffix("’s")


def _is_new_name(question: str, word: re.Match[str]) -> bool:
    return (
        word[0][0].isupper() and word.start() > 0 and not question.isupper() and words(word[0])[0] not in FUNCTION_WORDS
    )
