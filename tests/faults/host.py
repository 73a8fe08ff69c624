"""The host application of these tests, for the servers and for the processes that work."""

from __future__ import annotations

import os

from flask import Flask

from flask_sessionstatus import SessionStatus
from flask_sessionstatus.streaming import follower

OWNER = "somebody"

if "TEST_PING" in os.environ:
    follower.PING = float(os.environ["TEST_PING"])

app = Flask(__name__)
app.config.from_prefixed_env()
sessionstatus = SessionStatus(app, identify=lambda: OWNER, is_operator=lambda: True)
app.register_blueprint(sessionstatus.create_blueprint(), url_prefix="/api/v1")
