"""The pages of reading a text, and the requests that start it."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response, render_template
from flask.typing import ResponseReturnValue

from example_app import work
from example_app.forms import accepted, first_page, own_session, refuse_with, submitted_document, submitted_question
from example_app.visitors import welcome
from flask_sessionstatus import Session

pages = Blueprint("pages", __name__)
pages.before_request(welcome)
refuse_with(pages, "home.html")


@pages.get("/")
def home() -> Response:
    return first_page("home.html")


@pages.get("/c/<uuid:conversation_id>")
def conversation(conversation_id: UUID) -> str:
    return render_template("reading.html", conversation_id=conversation_id)


@pages.post("/c/<uuid:conversation_id>/text")
def read(conversation_id: UUID) -> ResponseReturnValue:
    """Starts reading the submitted text; a repeated request starts nothing twice."""
    document = submitted_document()
    summarise = work.summarise.with_options(
        session_id=_session_id(conversation_id), idempotency_key="text", metadata=document.as_metadata()
    )
    return accepted(summarise.start(str(conversation_id), document.document_id), "pages.conversation")


@pages.post("/c/<uuid:conversation_id>/again")
def read_again(conversation_id: UUID) -> ResponseReturnValue:
    """Starts reading the conversation's text once more, after a reading that was stopped or broke off."""
    session = _own_session(conversation_id)
    summarise = work.summarise.with_options(session_id=session.session_id, if_running="reject")
    return accepted(summarise.start(str(conversation_id), _document_id(session)), "pages.conversation")


@pages.post("/c/<uuid:conversation_id>/questions")
def ask(conversation_id: UUID) -> ResponseReturnValue:
    """Starts answering a question about the conversation's text; one thing runs at a time."""
    question = submitted_question()
    session = _own_session(conversation_id)
    answer = work.answer.with_options(session_id=session.session_id, if_running="reject")
    return accepted(answer.start(str(conversation_id), _document_id(session), question), "pages.conversation")


def _session_id(conversation_id: UUID) -> str:
    return f"reading:{conversation_id}"


def _own_session(conversation_id: UUID) -> Session:
    return own_session(_session_id(conversation_id), str(conversation_id))


def _document_id(session: Session) -> str:
    return str(session.metadata.get("documentId"))
