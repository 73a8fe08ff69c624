"""How the background work tells what it found: the pace, the events, and the turns that stay.

What is found is found in well under a second. So that a person can see a stream, its words are then told at about the
pace of a language model: `EXAMPLE_TOKENS_PER_SECOND`, where 0 is as fast as they can be.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from flask import current_app

from example_app.extensions import sessionstatus
from example_app.sections import Sentence
from example_app.words import words
from flask_sessionstatus import Cancelled, NotFound, Run, Turn

WORD = re.compile(r"\s*\S+")
STORE_PATIENCE = 60.0

Source = dict[str, Any]


class Telling:
    """What one run says: a `sentence` event with the place of each sentence, then its words as `token` events."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.content = ""
        self.sources: list[Source] = []
        self._due = time.monotonic()

    def answer(self, asked: Turn, sentences: Sequence[Sentence], otherwise: str) -> None:
        """Tells the sentences, or `otherwise` when there are none; an `understood` event first, if that needs saying.

        The question is kept with what was said, also when that was stopped half-way.
        """
        try:
            if asked.resolved_question:
                self.run.emit("understood", {"text": asked.resolved_question})
            for number, sentence in enumerate(sentences):
                self.run.progress(number, len(sentences), sentence.heading)
                self.tell(sentence)
            if not sentences:
                self.say(otherwise)
        except Cancelled:
            with suppress(NotFound):
                self._keep(asked)
            raise
        self.finish(asked)

    def tell(self, sentence: Sentence) -> None:
        place: Source = {"number": sentence.number, "section": sentence.section, "heading": sentence.heading}
        self.run.emit("sentence", dict(place))
        before = len(self.content)
        try:
            self.say(sentence.text)
        finally:
            self.sources.append({**place, "text": self.content[before:].lstrip()})

    def say(self, text: str) -> None:
        for word in WORD.findall(f" {text}" if self.content else text):
            self.run.check_cancelled()
            self._wait()
            self.run.emit("token", {"text": word})
            self.content += word

    def finish(self, *asked: Turn) -> None:
        """Keeps what was said as the assistant's turn and as the task's result."""
        self._keep(*asked)
        self.run.result({"text": self.content, "sources": [*self.sources]})

    def _keep(self, *asked: Turn) -> None:
        """Adds the turns in one step, each with its task, so that a page which follows that need not show them twice.

        What was emitted survives a store that is away for a while; turns are written at once, so they wait for it.
        """
        told = [Turn("assistant", self.content, sources=[*self.sources])] if self.content else []
        self.run.flush(STORE_PATIENCE)
        sessionstatus.sessions.add_turns(
            self.run.session_id, [replace(turn, results={"taskId": self.run.task_id}) for turn in (*asked, *told)]
        )

    def _wait(self) -> None:
        tokens_per_second = float(current_app.config["EXAMPLE_TOKENS_PER_SECOND"])
        now = time.monotonic()
        if tokens_per_second and self._due > now:
            time.sleep(self._due - now)
        self._due = max(now, self._due) + (1 / tokens_per_second if tokens_per_second else 0)


def asked_turn(question: str, understood: str, **fields: Any) -> Turn:
    """The turn of a question; how it was understood is told when that is not how it was asked."""
    otherwise = understood if words(understood) != words(question) else None
    return Turn("user", question, resolved_question=otherwise, **fields)
