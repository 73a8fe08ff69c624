"""Living in somebody's application: its error handlers, its other apps, its OpenAPI document."""

from __future__ import annotations

import logging
import warnings
from contextlib import suppress
from typing import Any

import pytest
from flask import Flask, jsonify
from flask_smorest import Api
from hosts import PREFIX, Host, MakeHost

from flask_sessionstatus import ConfigurationError, NotFound, SessionStatus, StoreUnavailable, TaskRunning


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    return make_host(fresh=True)


def test_the_hosts_error_handlers_do_not_change_our_bodies(host: Host) -> None:
    host.app.errorhandler(404)(lambda error: ("host's 404", 404))
    host.app.errorhandler(422)(lambda error: ("host's 422", 422))
    host.app.errorhandler(Exception)(lambda error: ("host's 500", 500))
    assert host.get("/conversations/c1/active-session").json == {
        "error": "No active session found",
        "conversationId": "c1",
    }
    response = host.get("/sessions?limit=0")
    assert response.status_code == 422
    assert response.json is not None
    assert list(response.json["errors"]) == ["limit"]
    assert host.post("/sessions", data="{", content_type="application/json").status_code == 400


def test_ours_do_not_change_the_hosts(host: Host) -> None:
    host.app.errorhandler(404)(lambda error: ("host's 404", 404))
    host.app.add_url_rule("/own/<int:number>", "own", lambda number: {"number": number})
    assert host.client.get("/own/x").data == b"host's 404"
    assert host.client.get("/own/5").json == {"number": 5}


def test_a_hosts_view_may_let_our_errors_go_through(host: Host) -> None:
    def fail(name: str) -> Any:
        raise {
            "running": TaskRunning("A task is running.", taskId="t1"),
            "away": StoreUnavailable("Away."),
            "unknown": NotFound("Session not found", sessionId="s1"),
        }[name]

    host.app.add_url_rule("/own/<name>", "own", fail)
    assert (host.client.get("/own/running").status_code, host.client.get("/own/running").json) == (
        409,
        {"error": "A task is running.", "taskId": "t1"},
    )
    away = host.client.get("/own/away")
    assert (away.status_code, away.headers["Retry-After"]) == (503, "1")
    assert host.client.get("/own/unknown").json == {"error": "Session not found", "sessionId": "s1"}


def test_a_host_may_catch_our_errors_itself(host: Host) -> None:
    host.app.errorhandler(TaskRunning)(lambda error: (jsonify(mine=error.ids), 418))

    def fail() -> Any:
        raise TaskRunning("A task is running.", taskId="t1")

    host.app.add_url_rule("/own", "own", fail)
    response = host.client.get("/own")
    assert (response.status_code, response.json) == (418, {"mine": {"taskId": "t1"}})


def plain_app(extension: SessionStatus, **config: Any) -> Flask:
    app = Flask("other")
    app.config.update({"SESSIONSTATUS_STORAGE_URI": "memory://", **config})
    extension.init_app(app)
    app.register_blueprint(extension.create_blueprint(), url_prefix="/x")
    return app


def test_two_apps_in_one_process_share_nothing() -> None:
    extension = SessionStatus(identify=lambda: "u1")
    first, second = plain_app(extension, SESSIONSTATUS_DEFAULT_LANGUAGE="de"), plain_app(extension)
    made = first.test_client().post("/x/sessions").json
    assert made is not None
    assert made["language"] == "de"
    assert second.test_client().get("/x/sessions").json == []
    assert second.test_client().get(f"/x/sessions/{made['id']}").status_code == 404
    other = second.test_client().post("/x/sessions").json
    assert other is not None
    assert other["language"] == "nl"
    assert first.extensions["sessionstatus"].engine is not second.extensions["sessionstatus"].engine
    for app in (first, second):
        app.extensions["sessionstatus"].shutdown(5)


def test_registering_the_blueprint_alone_initialises_the_app() -> None:
    extension = SessionStatus(identify=lambda: "u1")
    app = Flask("alone")
    app.config["SESSIONSTATUS_STORAGE_URI"] = "memory://"
    app.config["SESSIONSTATUS_DEFAULT_LANGUAGE"] = "fr"
    app.register_blueprint(extension.create_blueprint())
    made = app.test_client().post("/sessions").json
    assert made is not None
    assert made["language"] == "fr"
    app.extensions["sessionstatus"].shutdown(5)


def test_init_app_twice_is_refused() -> None:
    extension = SessionStatus()
    app = plain_app(extension)
    with pytest.raises(ConfigurationError):
        extension.init_app(app)


def test_an_app_without_a_storage_uri_is_warned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        SessionStatus(Flask("silent"))
    assert "SESSIONSTATUS_STORAGE_URI" in caplog.text
    caplog.clear()
    plain_app(SessionStatus())
    assert caplog.text == ""


def test_the_parts_can_be_chosen() -> None:
    extension = SessionStatus(identify=lambda: "u1")
    app = Flask("parts")
    app.config["SESSIONSTATUS_STORAGE_URI"] = "memory://"
    app.register_blueprint(extension.create_blueprint("status", parts=("conversations",)), url_prefix="/a")
    app.register_blueprint(extension.create_blueprint("ops", parts=("operations",)), url_prefix="/b")
    client = app.test_client()
    assert client.get("/a/conversations/c1/active-session").status_code == 404
    assert client.get("/a/sessions").content_type.startswith("text/html")
    assert client.get("/b/health").status_code == 200
    with pytest.raises(ConfigurationError):
        extension.create_blueprint(parts=("everything",))


def test_outside_of_an_app_it_says_what_is_missing() -> None:
    extension = SessionStatus()
    with pytest.raises(RuntimeError, match="app context"):
        extension.stats()
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match="init_app"):
        extension.stats()


def document() -> dict[str, Any]:
    extension = SessionStatus(identify=lambda: "u1")
    app = Flask("documented")
    app.config.update(SESSIONSTATUS_STORAGE_URI="memory://", API_TITLE="Host", API_VERSION="1", OPENAPI_VERSION="3.0.3")
    api = Api(app)
    extension.init_app(app)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        api.register_blueprint(extension.create_blueprint(), url_prefix=PREFIX)
    described: dict[str, Any] = api.spec.to_dict()
    return described


ROUTES = {
    "/conversations/{conversation_id}/active-session": {"get"},
    "/conversations/{conversation_id}/task-status": {"get"},
    "/conversations/{conversation_id}/resume/{session_id}": {"get", "post"},
    "/conversations/{conversation_id}/stream": {"get"},
    "/conversations/{conversation_id}/stop": {"post"},
    "/sessions": {"get", "post"},
    "/sessions/{session_id}": {"get", "patch", "delete"},
    "/sessions/{session_id}/messages": {"get", "post"},
    "/sessions/{session_id}/stats": {"get"},
    "/sessions/{session_id}/tasks": {"get"},
    "/sessions/{session_id}/tasks/{task_id}": {"get"},
    "/sessions/{session_id}/tasks/{task_id}/result": {"get"},
    "/sessions/{session_id}/tasks/{task_id}/cancel": {"post"},
    "/sessions/{session_id}/tasks/{task_id}/events": {"get"},
    "/health": {"get"},
    "/stats": {"get"},
}


def test_the_openapi_document_has_every_route() -> None:
    paths = document()["paths"]
    found = {
        path.removeprefix(PREFIX): {method for method in methods if method != "parameters"}
        for path, methods in paths.items()
    }
    assert {path: found.get(path) for path in ROUTES} == ROUTES


def test_the_openapi_document_tells_streams_and_304_and_errors() -> None:
    paths = {path.removeprefix(PREFIX): methods for path, methods in document()["paths"].items()}
    for path in ("resume/{session_id}", "stream"):
        answers = paths[f"/conversations/{{conversation_id}}/{path}"]["get"]["responses"]
        assert list(answers["200"]["content"]) == ["text/event-stream"]
        assert "204" in answers
    for path in ("active-session", "task-status"):
        answers = paths[f"/conversations/{{conversation_id}}/{path}"]["get"]["responses"]
        assert {"200", "304", "401", "403", "404", "422", "503"} <= set(answers)
    assert "202" in paths["/conversations/{conversation_id}/stop"]["post"]["responses"]
    assert "201" in paths["/sessions"]["post"]["responses"]
    events = paths["/sessions/{session_id}/tasks/{task_id}/events"]["get"]["responses"]["200"]["content"]
    assert set(events) == {"application/json", "text/event-stream"}


def test_the_openapi_document_names_the_six_keys() -> None:
    schemas = document()["components"]["schemas"]
    properties = set(schemas["SessionStatusActiveSession"]["properties"])
    assert properties == {"sessionId", "status", "cursor", "conversationId", "startedAt", "lastActivity"}


# Running work from a host's view


def test_a_run_in_a_request_belongs_to_its_caller(host: Host) -> None:
    def work() -> Any:
        with host.extension.run("c1", "s1") as run:
            run.emit("token", {"text": "a"})
            run.result({"answer": 42})
        return {"task": run.task_id}

    host.app.add_url_rule("/work", "work", work)
    done = host.client.get("/work").json
    assert done is not None
    assert host.get(f"/sessions/s1/tasks/{done['task']}/result").json == {"answer": 42}
    host.user = "u2"
    assert host.get("/sessions/s1").status_code == 404
    response = host.client.get("/work")
    assert response.status_code == 409


def test_a_background_function_runs_and_ends(make_host: MakeHost) -> None:
    host = make_host(fresh=True, background_eager=True)

    @host.extension.background(type="report")
    def report(run: Any, question: str) -> None:
        run.emit("token", {"text": question})
        run.result(question.upper())

    def start() -> Any:
        task = report.with_options(idempotency_key="once").start("c1", "why?")
        return {"task": task.task_id, "session": task.session_id}, 202

    host.app.add_url_rule("/start", "start", start)
    first, second = host.client.get("/start"), host.client.get("/start")
    assert first.status_code == 202
    assert first.json == second.json
    assert first.json is not None
    body = host.get(f"/sessions/{first.json['session']}/tasks/{first.json['task']}").json
    assert body is not None
    assert (body["type"], body["state"], body["resultAvailable"]) == ("report", "completed", True)
    assert host.get("/conversations/c1/stream").status_code == 204


def test_a_background_function_that_fails_is_an_error_with_its_type(make_host: MakeHost) -> None:
    host = make_host(fresh=True, background_eager=True)

    @host.extension.background()
    def fail(run: Any) -> None:
        raise ValueError("no\nsuch thing")

    with host.app.app_context():
        task = fail.with_options(session_id="s1", namespace_id="u1").start("c1")
    body = host.get(f"/sessions/s1/tasks/{task.task_id}").json
    assert body is not None
    assert (body["state"], body["errorType"], body["errorMessage"]) == ("error", "ValueError", "no such thing")


def test_outside_of_a_request_a_namespace_must_be_given(host: Host) -> None:
    with host.app.app_context(), pytest.raises(ValueError, match="namespace_id"):
        host.extension.run("c1")


@pytest.mark.parametrize("kept", [True, False])
def test_a_traceback_is_kept_for_the_host_alone_and_only_where_it_is_wanted(make_host: MakeHost, kept: bool) -> None:
    host = make_host(store_tracebacks=kept)
    with host.app.app_context():
        with suppress(ZeroDivisionError), host.extension.run("c1", "s1", namespace_id="u1") as run:
            1 / 0  # noqa: B018
        found = host.extension.traceback(run.task)
    assert (found is not None and "1 / 0" in found) is kept
    assert "1 / 0" not in host.get(f"/sessions/s1/tasks/{run.task_id}").text
    assert "1 / 0" not in host.get(f"/sessions/s1/tasks/{run.task_id}/events").text
