"""A session's turns as DSPy's History."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_sessionstatus import SessionStatus, Turn

dspy = pytest.importorskip("dspy")

from flask_sessionstatus.integrations.dspy import history  # noqa: E402


def test_answered_questions_become_messages_under_the_names_of_the_signature() -> None:
    app = Flask("host")
    app.config["SESSIONSTATUS_STORAGE_URI"] = "memory://"
    sessionstatus = SessionStatus(app, identify=lambda: "somebody")
    sessions = sessionstatus.sessions
    with app.app_context():
        session_id = sessions.create(namespace_id="somebody").session_id
        sessions.add_turns(session_id, [Turn("user", "How many live in Almelo?"), Turn("assistant", "About 74,000.")])
        sessions.add_turns(
            session_id,
            [
                Turn("user", "and in Enschede?", resolved_question="How many live in Enschede?"),
                Turn("assistant", "About 161,000."),
                Turn("user", "and in Hengelo?"),
            ],
        )
        found = history(sessions.turns(session_id), question="vraag", answer="antwoord")
        sessionstatus.shutdown()
    assert isinstance(found, dspy.History)
    assert found.messages == [
        {"vraag": "How many live in Almelo?", "antwoord": "About 74,000."},
        {"vraag": "How many live in Enschede?", "antwoord": "About 161,000."},
    ]


def test_other_roles_are_left_out_and_an_answer_may_come_in_parts() -> None:
    turns = [
        Turn("assistant", "Hello."),
        Turn("system", "Be brief."),
        Turn("user", "One?"),
        Turn("tool", "1"),
        Turn("assistant", "One."),
        Turn("assistant", "Or so."),
    ]
    assert history(turns).messages == [{"question": "One?", "answer": "One.\nOr so."}]


def test_no_turns_are_an_empty_history() -> None:
    assert history([]).messages == []
