"""The host application of these tests: it hears what clients say, and starts the work that they ask for."""

from __future__ import annotations

import os
import threading

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_sessionstatus import Json, Message, Run, Session, SessionStatus
from flask_sessionstatus.http import connection
from flask_sessionstatus.runs import IfRunning

OWNER = "somebody"

if "TEST_SILENCE" in os.environ:
    connection.SILENCE = float(os.environ["TEST_SILENCE"])

app = Flask(__name__)
app.config.from_prefixed_env()
if "TEST_TRUSTED_PROXIES" in os.environ:
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)  # type: ignore[method-assign]
sessionstatus = SessionStatus(
    app, identify=lambda: request.headers.get("X-User", OWNER) or None, is_operator=lambda: True
)
app.register_blueprint(sessionstatus.create_blueprint(), url_prefix="/api/v1")
released = threading.Event()


@sessionstatus.background()
def count(run: Run, upto: int, pause: float, size: int) -> None:
    """Emit the numbers from 1, `pause` s apart, each with a filling of `size` bytes."""
    for number in range(1, upto + 1):
        run.check_cancelled()
        run.emit("number", {"number": number, "filling": "x" * size})
        if pause:
            run.wait_cancelled(pause)


def start(
    session_id: str, conversation_id: str, upto: int, pause: float = 0, size: int = 0, if_running: IfRunning = "allow"
) -> str:
    options = count.with_options(session_id=session_id, namespace_id=OWNER, if_running=if_running)
    return options.start(conversation_id, upto, pause, size).task_id


@app.post("/start/<conversation_id>/<session_id>")
def start_work(conversation_id: str, session_id: str) -> tuple[dict[str, object], int]:
    form = request.form
    how = int(form["upto"]), float(form.get("pause", 0)), int(form.get("size", 0))
    return {"taskId": start(session_id, conversation_id, *how)}, 202


@sessionstatus.on_message
def hear(session: Session, message: Message) -> Json:
    """A chunk is answered by its length where it begins with `?`; a text says what to do."""
    if message.data is not None:
        if message.data == b"!":
            raise ValueError("a secret detail")
        sessionstatus.sessions.count(session.session_id, chunks=1)
        return len(message.data) if message.data.startswith(b"?") else None
    said = message.json
    if not isinstance(said, dict):
        return said
    if "count" in said:
        upto, pause = said["count"]  # type: ignore[misc]
        return {"taskId": start(session.session_id, session.conversation_id, upto, pause)}  # type: ignore[has-type]
    if said.get("alone"):
        return {"taskId": start(session.session_id, session.conversation_id, 1000, 60, if_running="reject")}
    if said.get("wait"):
        released.clear()
        released.wait(30)
    if said.get("fail"):
        raise RuntimeError("a secret detail")
    if said.get("bad"):
        return {"not": {"json"}}  # type: ignore[dict-item]
    return {"pid": os.getpid(), "session": session.session_id, "thread": threading.current_thread().name}


@app.post("/release")
def release() -> str:
    released.set()
    return ""
