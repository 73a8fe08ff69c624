"""What the application holds: the status of its sessions, and the submitted texts."""

from __future__ import annotations

from flask import current_app

from example_app.documents import Documents
from example_app.visitors import current_visitor
from flask_sessionstatus import SessionStatus

sessionstatus = SessionStatus(identify=current_visitor)


def documents() -> Documents:
    return Documents(current_app.config["EXAMPLE_DOCUMENTS"], current_app.config["EXAMPLE_MAX_TEXT_BYTES"])
