"""The background work: what runs while the page watches, or while nobody does.

A whole book is read in well under a second. So that a person can see a stream, the words found are then told at about
the pace of a language model: `EXAMPLE_TOKENS_PER_SECOND`, where 0 is as fast as they can be.
"""

from __future__ import annotations

import re
import time
from typing import Any

from flask import current_app

from example_app import answers, summary
from example_app.extensions import documents, sessionstatus
from example_app.sections import Sentence
from flask_sessionstatus import Run

WORD = re.compile(r"\s*\S+")
STORE_PATIENCE = 60.0

Source = dict[str, Any]


@sessionstatus.background(type="summary")
def summarise(run: Run, document_id: str) -> None:
    """Tells the sentences worth telling, section by section, as they are found."""
    telling = Telling(run)
    for reading in summary.summarise(documents().text(document_id)):
        run.progress(reading.section.number - 1, reading.total, reading.section.heading)
        for sentence in reading.found:
            telling.tell(sentence)
        run.progress(reading.section.number, reading.total, reading.section.heading)
    telling.finish()


@sessionstatus.background(type="answer")
def answer(run: Run, document_id: str, question: str) -> None:
    """Answers from the text; the history of the session tells what an elliptical question is about."""
    run.emit("question", {"text": question})
    history = sessionstatus.sessions.history(run.session_id)
    found = answers.answer(documents().text(document_id), question, history)
    _add_turn(run, "user", question, resolved_question=found.question)
    telling = Telling(run)
    for number, sentence in enumerate(found.sentences):
        run.progress(number, len(found.sentences), sentence.heading)
        telling.tell(sentence)
    if not found.sentences:
        telling.say(found.text)
    telling.finish()


class Telling:
    """What one run says: a `sentence` event with the place of each sentence, then its words as `token` events."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.content = ""
        self.sources: list[Source] = []
        self._due = time.monotonic()

    def tell(self, sentence: Sentence) -> None:
        place: Source = {"number": sentence.number, "section": sentence.section, "heading": sentence.heading}
        self.run.emit("sentence", dict(place))
        self.sources.append({**place, "text": sentence.text})
        self.say(sentence.text)

    def say(self, text: str) -> None:
        for word in WORD.findall(f" {text}" if self.content else text):
            self.run.check_cancelled()
            self._wait()
            self.run.emit("token", {"text": word})
            self.content += word

    def finish(self) -> None:
        """Stores what was said as the assistant's turn and as the task's result."""
        _add_turn(self.run, "assistant", self.content, sources=self.sources)
        self.run.result({"text": self.content, "sources": [*self.sources]})

    def _wait(self) -> None:
        tokens_per_second = float(current_app.config["EXAMPLE_TOKENS_PER_SECOND"])
        now = time.monotonic()
        if tokens_per_second and self._due > now:
            time.sleep(self._due - now)
        self._due = max(now, self._due) + (1 / tokens_per_second if tokens_per_second else 0)


def _add_turn(run: Run, role: str, content: str, **fields: object) -> None:
    """Adds a turn that names its task, so that a page which follows the task need not show it twice.

    What was emitted survives a store that is away for a while; a turn is written at once, so it waits for the store.
    """
    run.flush(STORE_PATIENCE)
    sessionstatus.sessions.add_turn(run.session_id, role, content, results={"taskId": run.task_id}, **fields)
