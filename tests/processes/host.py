"""The host application of these tests: it says which process answers and which one works."""

from __future__ import annotations

import os

from flask import Flask, Response, request

from flask_sessionstatus import Run, SessionStatus

OWNER = "somebody"

app = Flask(__name__)
app.config.from_prefixed_env()
sessionstatus = SessionStatus(app, identify=lambda: OWNER)
app.register_blueprint(sessionstatus.create_blueprint(), url_prefix="/api/v1")


@sessionstatus.background()
def count(run: Run, upto: int, pause: float, then: float) -> None:
    """Emit the numbers from 1, `pause` s apart, and then wait for `then` s, or to be stopped."""
    for number in range(1, upto + 1):
        run.check_cancelled()
        run.emit("number", {"number": number, "pid": os.getpid()})
        if pause:
            run.wait_cancelled(pause)
    run.wait_cancelled(then)
    run.check_cancelled()
    run.result(upto)


@app.post("/start/<conversation_id>")
def start(conversation_id: str) -> tuple[dict[str, object], int]:
    form = request.form
    task = count.start(conversation_id, int(form["upto"]), float(form.get("pause", 0)), float(form.get("then", 0)))
    return {"sessionId": task.session_id, "taskId": task.task_id, "pid": os.getpid()}, 202


@app.post("/enqueue/<conversation_id>")
def enqueue(conversation_id: str) -> tuple[dict[str, object], int]:
    task = sessionstatus.enqueue(conversation_id)
    return {"sessionId": task.session_id, "taskId": task.task_id, "ticket": task.ticket}, 202


@app.after_request
def sign(response: Response) -> Response:
    response.headers["X-Process"] = str(os.getpid())
    return response
