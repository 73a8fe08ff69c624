"""The background work on a submitted text: what runs while the page watches, or while nobody does."""

from __future__ import annotations

from example_app import answers, summary
from example_app.extensions import documents, sessionstatus
from example_app.telling import Telling, asked_turn
from flask_sessionstatus import Run


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
    Telling(run).answer(asked_turn(question, found.question), found.sentences, answers.SILENT)
