"""The log cuts ids short: they open what they name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from flask import Flask
from harness import Kind, logged

from flask_sessionstatus import RecordUnreadable, Run, SessionStatus, SessionStatusError, Turn

CONVERSATION = "conversation-0123456789"
SESSION = "session-0123456789"
NAMESPACE = "namespace-0123456789"


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest, redis_url: Callable[[str], str]) -> Iterator[Kind]:
    kind = Kind(request.param, None if request.param == "memory" else redis_url("newest"))
    yield kind
    kind.close()


def spoil(kind: Kind, run: Run) -> None:
    """Make what is stored unreadable, and read it."""
    assert kind.client is not None
    key = f"sessionstatus:{{{CONVERSATION}}}"
    kind.client.hset(key, mapping={f"session:{SESSION}": "{}", f"task:{run.task_id}": "[]"})


def test_the_log_holds_no_whole_id(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("host")
    app.config["SESSIONSTATUS_STORAGE_URI"] = kind.url or "memory://"
    sessionstatus = SessionStatus(app, identify=lambda: NAMESPACE)
    with caplog.at_level(logging.DEBUG, "flask_sessionstatus"), app.app_context():

        @sessionstatus.background()
        def fail(run: Run) -> None:
            raise RuntimeError("no")

        failed = fail.with_options(session_id=SESSION, namespace_id=NAMESPACE).start(CONVERSATION)
        with sessionstatus.run(CONVERSATION, SESSION, namespace_id=NAMESPACE) as run:
            run.on_cancel(lambda: 1 // 0)
            sessionstatus.sessions.add_turns(SESSION, [Turn("user", "x")])
            run.flush(5)
            store = sessionstatus.state.store
            if kind.is_redis:
                spoil(kind, run)
                for read in (
                    lambda: store.snapshot(CONVERSATION),
                    lambda: store.session(SESSION),
                    lambda: store.task(SESSION, run.task_id),
                    lambda: sessionstatus.sessions.list(NAMESPACE),
                    lambda: sessionstatus.sessions.update(SESSION, language="de"),
                ):
                    with suppress(RecordUnreadable):
                        read()
                assert kind.client is not None
                kind.client.flushall()
            sessionstatus.state.engine.beats.beat()
            with suppress(SessionStatusError):
                sessionstatus.sessions.delete(SESSION)
            sessionstatus.state.engine.beats.beat()
        sessionstatus.shutdown()
    text = logged(caplog.records) + caplog.text
    assert text.count("flask_sessionstatus") >= 2, "Something is logged here."
    for whole in (CONVERSATION, SESSION, NAMESPACE, run.task_id, failed.task_id):
        assert whole not in text
