"""The pages of the assistant, and the requests that ask it."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response, render_template
from flask.typing import ResponseReturnValue

from example_app import assistant
from example_app.documents import shortened
from example_app.forms import accepted, first_page, own_session, refuse_with, submitted_question
from example_app.visitors import welcome

pages = Blueprint("assistant", __name__, url_prefix="/assistant")
pages.before_request(welcome)
refuse_with(pages, "shelf.html")


@pages.get("")
def home() -> Response:
    return first_page("shelf.html")


@pages.get("/<uuid:conversation_id>")
def conversation(conversation_id: UUID) -> str:
    return render_template("assistant.html", conversation_id=conversation_id)


@pages.post("/<uuid:conversation_id>")
def begin(conversation_id: UUID) -> ResponseReturnValue:
    """Starts a conversation with its first question, which names it; a repeated request starts nothing twice."""
    question = submitted_question()
    reply = assistant.reply.with_options(
        session_id=_session_id(conversation_id), idempotency_key="first", metadata={"title": shortened(question)}
    )
    return accepted(reply.start(str(conversation_id), question), "assistant.conversation")


@pages.post("/<uuid:conversation_id>/questions")
def ask(conversation_id: UUID) -> ResponseReturnValue:
    """Starts answering the next question of a conversation that is still there; one thing runs at a time."""
    question = submitted_question()
    session = own_session(_session_id(conversation_id), str(conversation_id))
    reply = assistant.reply.with_options(session_id=session.session_id, if_running="reject")
    return accepted(reply.start(str(conversation_id), question), "assistant.conversation")


def _session_id(conversation_id: UUID) -> str:
    return f"assistant:{conversation_id}"
