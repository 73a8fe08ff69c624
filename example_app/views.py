"""The pages, and the requests that start background work."""

from __future__ import annotations

from uuid import UUID, uuid4

from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from example_app import work
from example_app.documents import Document, DocumentError, TextTooLong, decode
from example_app.extensions import documents, sessionstatus
from example_app.library import bundled_text, bundled_texts
from example_app.visitors import current_visitor, welcome
from flask_sessionstatus import NotFound, Session, StoreUnavailable, Task

LONGEST_QUESTION = 1000
LISTED_CONVERSATIONS = 20

pages = Blueprint("pages", __name__)
pages.before_request(welcome)


@pages.get("/")
def home() -> Response:
    return _first_page()


@pages.get("/c/<uuid:conversation_id>")
def conversation(conversation_id: UUID) -> str:
    return render_template("conversation.html", conversation_id=conversation_id, conversations=_conversations())


@pages.post("/c/<uuid:conversation_id>/text")
def read(conversation_id: UUID) -> ResponseReturnValue:
    """Starts reading the submitted text; a repeated request starts nothing twice."""
    document = _submitted_document()
    summarise = work.summarise.with_options(
        session_id=_session_id(conversation_id), idempotency_key="text", metadata=document.as_metadata()
    )
    return _accepted(summarise.start(str(conversation_id), document.document_id), conversation_id)


@pages.post("/c/<uuid:conversation_id>/again")
def read_again(conversation_id: UUID) -> ResponseReturnValue:
    """Starts reading the conversation's text once more, after a reading that was stopped or broke off."""
    session = _own_session(conversation_id)
    summarise = work.summarise.with_options(session_id=session.session_id, if_running="reject")
    return _accepted(summarise.start(str(conversation_id), _document_id(session)), conversation_id)


@pages.post("/c/<uuid:conversation_id>/questions")
def ask(conversation_id: UUID) -> ResponseReturnValue:
    """Starts answering a question about the conversation's text; one thing runs at a time."""
    question = request.form.get("question", "").strip()
    if not question:
        raise DocumentError("There is no question.")
    if len(question) > LONGEST_QUESTION:
        raise TextTooLong(f"The question is too long: {LONGEST_QUESTION} characters is the most.")
    session = _own_session(conversation_id)
    answer = work.answer.with_options(session_id=session.session_id, if_running="reject")
    return _accepted(answer.start(str(conversation_id), _document_id(session), question), conversation_id)


@pages.errorhandler(413)
def refuse_unread(error: Exception) -> ResponseReturnValue:
    return refuse(TextTooLong("The text is too long."))


@pages.errorhandler(DocumentError)
def refuse(error: DocumentError) -> ResponseReturnValue:
    status = 413 if isinstance(error, TextTooLong) else 422
    return _first_page(str(error), status) if _is_navigation() else ({"error": str(error)}, status)


def _first_page(problem: str = "", status: int = 200) -> Response:
    """Names a new conversation each time it is made, so no cache may keep it."""
    page = render_template(
        "home.html",
        conversation_id=uuid4(),
        texts=bundled_texts(),
        conversations=_conversations(),
        problem=problem,
    )
    return Response(page, status, {"Cache-Control": "no-store"})


def _is_navigation() -> bool:
    """Whether a form was sent without the page's script: what is answered will be shown."""
    return request.accept_mimetypes["text/html"] > request.accept_mimetypes["application/json"]


def _submitted_document() -> Document:
    if bundled := bundled_text(request.form.get("bundled", "")):
        return documents().save(bundled.text, bundled.title, bundled.author)
    upload = request.files.get("file")
    if upload and upload.filename:
        return documents().save(decode(upload.read()), title=upload.filename.rsplit(".", 1)[0])
    return documents().save(request.form.get("text", ""))


def _accepted(task: Task, conversation_id: UUID) -> ResponseReturnValue:
    page = url_for("pages.conversation", conversation_id=conversation_id)
    if _is_navigation():
        return redirect(page, 303)
    return {"sessionId": task.session_id, "taskId": task.task_id, "page": page}, 202


def _session_id(conversation_id: UUID) -> str:
    return f"reading:{conversation_id}"


def _own_session(conversation_id: UUID) -> Session:
    session = sessionstatus.sessions.get(_session_id(conversation_id))
    if session is None or session.namespace_id != current_visitor():
        raise NotFound("There is no such conversation.", conversationId=str(conversation_id))
    return session


def _document_id(session: Session) -> str:
    return str(session.metadata.get("documentId"))


def _conversations() -> list[Session] | None:
    """The visitor's own, the latest first; None while the store cannot say."""
    try:
        return list(sessionstatus.sessions.list(current_visitor(), limit=LISTED_CONVERSATIONS).sessions)
    except StoreUnavailable:
        return None
