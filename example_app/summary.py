"""An extractive summary, found while the text is being read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import networkx
import numpy
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from example_app.sections import Section, Sentence, read_sections
from example_app.words import content_stems, words

SENTENCES_PER_ROOT = 0.8
NOVELTY = 0.3
REPETITION = 0.6
FULL_WEIGHT_WORDS = 10
LONG_WORDS = 45

Numbers = numpy.ndarray[Any, numpy.dtype[numpy.float64]]

CLOSING = "\"'’”»)"
OPENED = re.compile(r"[“‘«(]")
CLOSED = re.compile(r"[”»)]|’(?!\w)")


@dataclass(frozen=True)
class Reading:
    """A section that has been read, and the sentences worth telling from it, in the order of the text."""

    section: Section
    total: int
    found: tuple[Sentence, ...]


def summarise(text: str) -> Iterator[Reading]:
    """Reads the text section by section; about 0.8 √n of its n sentences are found on the way, and at least one.

    A sentence is worth telling when many others of its section say something alike (TextRank over TF-IDF, leaning
    towards what the whole text is about) and nothing told before says the same (maximal marginal relevance).
    """
    sections = read_sections(text)
    sentences = [sentence for section in sections for sentence in section.sentences]
    if not sentences:
        return
    vectors = _vectors(sentences)
    theme = vectors @ numpy.asarray(vectors.mean(axis=0)).ravel()
    wanted = max(1, math.ceil(SENTENCES_PER_ROOT * math.sqrt(len(sentences))))
    told: list[int] = []
    for section in sections:
        first, last = section.sentences[0].number - 1, section.sentences[-1].number
        ranks = _ranks(section, vectors[first:last], theme[first:last])
        room = math.ceil(wanted * last / len(sentences)) - len(told)
        chosen = _choose(ranks, first, room, vectors, told)
        told += chosen
        yield Reading(section, len(sections), tuple(sentences[index] for index in sorted(chosen)))


def _vectors(sentences: Sequence[Sentence]) -> csr_matrix:
    texts = [sentence.text for sentence in sentences]
    for analyzer in (content_stems, words):
        try:
            return TfidfVectorizer(analyzer=analyzer, sublinear_tf=True).fit_transform(texts)
        except ValueError:  # no such words at all
            continue
    return csr_matrix(numpy.ones((len(texts), 1)))


def _ranks(section: Section, vectors: csr_matrix, theme: Numbers) -> Numbers:
    alike = vectors @ vectors.T
    alike.setdiag(0)
    alike.eliminate_zeros()
    leaning = dict(enumerate(theme)) if theme.any() else None
    ranks = networkx.pagerank(networkx.from_scipy_sparse_array(alike), personalization=leaning, tol=1e-4)
    weighted: Numbers = numpy.array([ranks[n] * _weight(sentence) for n, sentence in enumerate(section.sentences)])
    weighted /= numpy.max(weighted)
    return weighted


def _weight(sentence: Sentence) -> float:
    """Less for a sentence that is too short or too long to stand alone, a question, or half a quotation."""
    text = sentence.text
    weight = min(1.0, len(content_stems(text)) / FULL_WEIGHT_WORDS) * min(1.0, LONG_WORDS / len(text.split()))
    if text[0].islower() or text.endswith((":", ";", ",", "—")) or text.rstrip(CLOSING).endswith("?"):
        weight /= 2
    if len(OPENED.findall(text)) != len(CLOSED.findall(text)):
        weight /= 2
    return max(0.01, weight)


def _choose(ranks: Numbers, first: int, room: int, vectors: csr_matrix, told: Sequence[int]) -> list[int]:
    """The indices of at most `room` sentences of a section, each as well ranked and as new as can be."""
    chosen: list[int] = []
    candidates = list(range(first, first + len(ranks)))
    while candidates and len(chosen) < room:
        repetition = _repetition(vectors, candidates, [*told, *chosen])
        merit = (1 - NOVELTY) * ranks[[index - first for index in candidates]] - NOVELTY * repetition
        merit[repetition > REPETITION] = -math.inf
        best = int(numpy.argmax(merit))
        if merit[best] == -math.inf:
            break
        chosen.append(candidates.pop(best))
    return chosen


def _repetition(vectors: csr_matrix, candidates: list[int], known: list[int]) -> Numbers:
    """How much each candidate says what a known sentence says: the largest cosine, 0 to 1."""
    if not known:
        return numpy.zeros(len(candidates))
    return numpy.asarray((vectors[candidates] @ vectors[known].T).max(axis=1).todense()).ravel()
