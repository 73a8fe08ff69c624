"""The host application of these tests, for the servers and for the processes that work."""

from __future__ import annotations

import os

from flask import Flask, Response, request

from flask_sessionstatus import Run, SessionStatus

OWNER = "somebody"

app = Flask(__name__)
app.config.from_prefixed_env()
sessionstatus = SessionStatus(app, identify=lambda: OWNER, is_operator=lambda: True)
app.register_blueprint(sessionstatus.create_blueprint(), url_prefix="/api/v1")


@sessionstatus.background()
def count(run: Run, seconds: float, pace: float) -> None:
    """Emit a number every `pace` s, for so many seconds; the result is how many there were."""
    numbers = max(1, round(seconds / pace))
    for number in range(numbers):
        run.emit("number", {"number": number})
        run.progress(number + 1, numbers)
        run.wait_cancelled(pace)
        run.check_cancelled()
    run.result(numbers)


@app.post("/count/<conversation_id>")
def start_counting(conversation_id: str) -> dict[str, str]:
    task = count.start(conversation_id, float(request.args["seconds"]), float(request.args["pace"]))
    return {"sessionId": task.session_id, "taskId": task.task_id}


@app.after_request
def sign(response: Response) -> Response:
    response.headers["X-Process"] = str(os.getpid())
    return response
