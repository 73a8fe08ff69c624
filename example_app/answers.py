"""An extractive answer to a question about a text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from example_app.language import word_list
from example_app.sections import Sentence, read_sections
from example_app.words import content_stems, words

SILENT = "The text does not say."

ENOUGH = 0.6
NEARLY_AS_GOOD = 0.85
MOST_SENTENCES = 3
REMEMBERED_QUESTIONS = 3
FADING = 0.5
NEIGHBOUR = 0.5

PART = re.compile(r"(?<=[?!.])\s+")
ELLIPTICAL = re.compile(
    r"(?:and|but|or|what about|how about|en|maar|of|hoe zit het met|und|aber|et|mais|а|и|но)\b", re.IGNORECASE
)
PRONOUNS = frozenset(word_list("pronouns"))
HOW_OLD = re.compile(r"\bhow old\b", re.IGNORECASE)
AMOUNT_ASKED = re.compile(
    r"\b(?:when|how (?:many|much|old|long|far|tall|high|big|often)|what (?:year|time|age)|"
    r"wanneer|hoeveel|hoe (?:oud|lang|vaak)|wann|wieviel|combien|quand|сколько|когда)\b",
    re.IGNORECASE,
)
AMOUNT = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen(?:th)?|score|dozen|hundred|thousand|"
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty|half|once|twice|twee|drie|vier|vijf|zes|zeven|acht|negen|tien)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Answer:
    """The sentences that answer, in the order of the text; none when the text does not say.

    `question` is the question as it was understood: an elliptical one with what it leaves out before it. `merit` tells
    how well the best sentence answers: from 0, for none, to about 1.
    """

    question: str
    sentences: tuple[Sentence, ...]
    merit: float = 0.0

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences) or SILENT


def answer(text: str, question: str, history: Sequence[Mapping[str, str]] = ()) -> Answer:
    """The one to three sentences that answer the question, in the words of the text.

    `history` is the conversation so far, oldest first, as `{"role", "content"}` with the user's questions resolved.
    """
    asked = _asked(question, history)
    sentences = [sentence for section in read_sections(text) for sentence in section.sentences]
    merits = _merits(asked, sentences)
    best = sorted(merits, key=lambda index: -merits[index])[:MOST_SENTENCES]
    found = [index for index in best if merits[index] >= NEARLY_AS_GOOD * merits[best[0]]]
    merit = max(merits.values(), default=0.0)
    return Answer(" ".join(reversed(asked)), tuple(sentences[index] for index in sorted(found)), merit)


def _asked(question: str, history: Sequence[Mapping[str, str]]) -> list[str]:
    """The question and, when it cannot be understood alone, the ones that it follows; the newest first."""
    question = " ".join(question.split())
    asked = [question if question.endswith(("?", "!", ".")) else f"{question}?"]
    previous = next((turn["content"] for turn in reversed(history) if turn["role"] == "user"), None)
    if previous and _is_elliptical(question):
        asked += [part for part in reversed(PART.split(previous)) if not ELLIPTICAL.match(part)]
    return asked[:REMEMBERED_QUESTIONS]


def _is_elliptical(question: str) -> bool:
    if ELLIPTICAL.match(question) or len(words(question)) <= 2:
        return True
    told = len(content_stems(question))
    return told == 0 or (told <= 2 and any(word in PRONOUNS for word in words(question)))


def _merits(asked: Sequence[str], sentences: Sequence[Sentence]) -> dict[int, float]:
    """How well each sentence answers, of those that answer at all, by their indices."""
    stems = [frozenset(content_stems(sentence.text)) for sentence in sentences]
    newest = _weights(asked[:1], stems)
    every = _weights(asked, stems)
    amount_asked = AMOUNT_ASKED.search(asked[0]) is not None
    merits: dict[int, float] = {}
    for index, sentence in enumerate(sentences):
        near = frozenset().union(*stems[max(0, index - 1) : index + 2])
        own, around = stems[index] & every.keys(), near & every.keys()
        if own and _share(newest, stems[index], near) >= ENOUGH and (share := _share(every, own, around)) >= ENOUGH:
            merits[index] = share * _suitability(sentence.text, amount_asked)
    return merits


def _weights(asked: Sequence[str], stems: Sequence[frozenset[str]]) -> dict[str, float]:
    """How much each word of the questions tells: rare words more, words of earlier questions less."""
    frequency = Counter(stem for sentence in stems for stem in sentence)
    weights: dict[str, float] = {}
    for age, question in enumerate(asked):
        for stem in content_stems(HOW_OLD.sub("what age", question)):
            weights.setdefault(stem, FADING**age * math.log(1 + (1 + len(stems)) / (1 + frequency[stem])))
    return weights


def _share(weights: Mapping[str, float], own: Set[str], around: Set[str]) -> float:
    total = sum(weights.values())
    found = sum(weight * (1 if stem in own else NEIGHBOUR) for stem, weight in weights.items() if stem in around)
    return found / total if total else 1.0


def _suitability(sentence: str, amount_asked: bool) -> float:
    length = len(sentence.split())
    suitability = 0.75 if length < 8 else 1 - 0.1 * min(1.0, length / 60)
    if amount_asked and AMOUNT.search(sentence):
        suitability *= 1.25
    if sentence.rstrip("\"'’”»)").endswith("?"):
        suitability *= 0.8
    return suitability
