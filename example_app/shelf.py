"""The bundled texts as one shelf: which of them answers a question, and the names that they use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from example_app import answers
from example_app.library import BundledText, bundled_texts
from example_app.names import Names
from example_app.sections import Sentence

SILENT = "None of the texts says."


@dataclass(frozen=True)
class Found:
    """The sentences that answer, with the text's title before their headings; without a text none of them says."""

    text: BundledText | None
    sentences: tuple[Sentence, ...]


@lru_cache(maxsize=1)
def shelf_names() -> Names:
    return Names(bundled.text for bundled in bundled_texts())


def ask(question: str, first: str = "") -> Found:
    """The answer of the text that answers a complete question best; the one named `first` goes before all others."""
    preferred = [bundled for bundled in bundled_texts() if bundled.name == first]
    for texts in (preferred, bundled_texts()):
        found = [(answers.answer(bundled.text, question), bundled) for bundled in texts]
        best = max(found, key=lambda each: each[0].merit, default=None)
        if best and best[0].sentences:
            answer, text = best
            return Found(text, tuple(replace(each, heading=_place(text, each)) for each in answer.sentences))
    return Found(None, ())


def _place(text: BundledText, sentence: Sentence) -> str:
    return f"{text.title} · {sentence.heading}" if sentence.heading else text.title
