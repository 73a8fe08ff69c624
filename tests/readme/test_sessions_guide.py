"""docs/sessions.md, typed into a host one block after the other."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from readme.blocks import ROOT, blocks, rows

from flask_sessionstatus import SessionStatus
from flask_sessionstatus.sessions import Sessions

GUIDE = "docs/sessions.md"


@pytest.fixture
def host() -> dict[str, Any]:
    app = Flask("host")
    app.config["SESSIONSTATUS_STORAGE_URI"] = "memory://"
    sessionstatus = SessionStatus(app, identify=lambda: "alice")
    app.register_blueprint(sessionstatus.create_blueprint(), url_prefix="/api/v1")
    return {"app": app, "sessionstatus": sessionstatus, "keys": {"alice": "secret"}}


def test_the_blocks_do_what_they_say(host: dict[str, Any]) -> None:
    code = blocks(GUIDE)
    assert list(code) == ["session", "turns", "key"]
    for block in code.values():
        exec(block, host)
    app, sessionstatus, session = host["app"], host["sessionstatus"], host["session"]
    assert host["same"].session_id == session.session_id
    assert session.metadata == {"title": "Twente"}
    assert [each.session_id for each in host["page"].sessions] == [session.session_id]
    assert host["town"] == "Almelo"
    assert host["messages"][-1] == {"role": "user", "content": "How many people live in Enschede?"}
    assert host["before"].content == "and in Enschede?"
    with app.app_context():
        assert sessionstatus.sessions.slots(session.session_id) == {}
    client = app.test_client()
    assert client.post("/api/v1/sessions", json={"keyHash": "wrong"}).status_code == 401
    made = client.post("/api/v1/sessions", json={"keyHash": "secret"})
    assert client.get(made.headers["Location"]).status_code == 401
    assert client.get(made.headers["Location"], headers={"X-Namespace-Key": "secret"}).status_code == 200


def test_the_table_names_every_method() -> None:
    told = " ".join(row[0] for row in rows((ROOT / GUIDE).read_text(encoding="utf-8")))
    public = {name for name, value in vars(Sessions).items() if callable(value) and not name.startswith("_")}
    assert {name for name in public if f"`{name}(" not in told} <= {"draft"}
