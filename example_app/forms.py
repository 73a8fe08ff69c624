"""What the pages' forms send, and how they are answered: with JSON for the page's script, else with a page."""

from __future__ import annotations

from uuid import uuid4

from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from example_app.documents import Document, DocumentError, TextTooLong, decode
from example_app.extensions import documents, sessionstatus
from example_app.library import bundled_text, bundled_texts
from example_app.visitors import current_visitor
from flask_sessionstatus import NotFound, Session, Task

LONGEST_QUESTION = 1000


def submitted_document() -> Document:
    """The text that was picked, uploaded or pasted, kept. Raises DocumentError."""
    if bundled := bundled_text(request.form.get("bundled", "")):
        return documents().save(bundled.text, bundled.title, bundled.author)
    upload = request.files.get("file")
    if upload and upload.filename:
        return documents().save(decode(upload.read()), title=upload.filename.rsplit(".", 1)[0])
    return documents().save(request.form.get("text", ""))


def submitted_question() -> str:
    """The question that was typed, or the one that was picked instead. Raises DocumentError for none, or a long one."""
    submitted = [text.strip() for text in request.form.getlist("question") if text.strip()]
    if not submitted:
        raise DocumentError("There is no question.")
    question = submitted[-1]
    if len(question) > LONGEST_QUESTION:
        raise TextTooLong(f"The question is too long: {LONGEST_QUESTION} characters is the most.")
    return question


def own_session(session_id: str, conversation_id: str) -> Session:
    """The visitor's session of that id. Raises NotFound."""
    session = sessionstatus.sessions.get(session_id)
    if session is None or session.namespace_id != current_visitor():
        raise NotFound("There is no such conversation.", conversationId=conversation_id)
    return session


def first_page(template: str, problem: str = "", status: int = 200) -> Response:
    """A page on which a conversation starts. It names a new one each time it is made, so no cache may keep it."""
    page = render_template(template, conversation_id=uuid4(), texts=bundled_texts(), problem=problem)
    return Response(page, status, {"Cache-Control": "no-store"})


def accepted(task: Task, endpoint: str) -> ResponseReturnValue:
    """Says on which page what was started can be followed."""
    page = url_for(endpoint, conversation_id=task.conversation_id)
    if _is_navigation():
        return redirect(page, 303)
    return {"sessionId": task.session_id, "taskId": task.task_id, "page": page}, 202


def refuse_with(blueprint: Blueprint, template: str) -> None:
    """Answers what the blueprint's views cannot take with the problem in plain words, on that first page."""

    @blueprint.errorhandler(DocumentError)
    def refuse(error: DocumentError) -> ResponseReturnValue:
        status = 413 if isinstance(error, TextTooLong) else 422
        return first_page(template, str(error), status) if _is_navigation() else ({"error": str(error)}, status)

    @blueprint.errorhandler(413)
    def refuse_unread(error: Exception) -> ResponseReturnValue:
        return refuse(TextTooLong("The text is too long."))


def _is_navigation() -> bool:
    """Whether a form was sent without the page's script: what is answered will be shown."""
    return request.accept_mimetypes["text/html"] > request.accept_mimetypes["application/json"]
