"""A store that is away, silent, or no Redis at all: quick answers that say so, and no secret in any of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask_smorest import Api
from harness import a_session, a_task, begin
from servers import Proxy, Silent, free_port

from flask_sessionstatus import ConfigurationError, SessionStatus
from flask_sessionstatus.streaming.shedding import PER_SECOND

HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<h1>400</h1>"


@pytest.fixture(params=["unreachable", "silent", "not-redis"])
def uri(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "unreachable":
        yield f"redis://:secret@127.0.0.1:{free_port()}/0"
        return
    with Silent(HTTP if request.param == "not-redis" else b"") as server:
        yield server.url


def app_on(uri: str, mode: str, **config: Any) -> Flask:
    extension = SessionStatus(identify=lambda: "u1")
    app = Flask("host")
    app.config.update(SESSIONSTATUS_STORAGE_URI=uri, **config)
    if mode == "smorest":
        app.config.update(API_TITLE="Host", API_VERSION="1", OPENAPI_VERSION="3.0.3")
    api = Api(app) if mode == "smorest" else None
    extension.init_app(app)
    (api or app).register_blueprint(extension.create_blueprint(), url_prefix="/x")
    return app


@pytest.mark.alone
def test_the_app_starts_and_the_first_request_says_503_soon(
    uri: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    began = time.monotonic()
    app = app_on(uri, mode)
    assert time.monotonic() - began < 1
    client = app.test_client()
    for method, path in [
        ("GET", "/x/conversations/c1/active-session"),
        ("GET", "/x/conversations/c1/stream"),
        ("POST", "/x/sessions"),
        ("GET", "/x/sessions/s1"),
        ("GET", "/x/health"),
    ]:
        began = time.monotonic()
        response = client.open(path, method=method)
        assert time.monotonic() - began < 2
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert b"secret" not in response.data
    assert "secret" not in caplog.text
    app.extensions["sessionstatus"].shutdown(2)


def test_a_stream_is_told_to_come_back(uri: str, mode: str) -> None:
    app = app_on(uri, mode)
    client = app.test_client()
    for path in ("conversations/c1/stream", "conversations/c1/resume/s1", "sessions/s1/tasks/t1/events"):
        response = client.get(f"/x/{path}", headers={"Accept": "text/event-stream"})
        assert (response.status_code, response.mimetype) == (200, "text/event-stream")
        assert response.data == b"retry: 1000\n"
    for _ in range(20 * PER_SECOND):
        app.extensions["sessionstatus"].engine.hub.shedding.later()
    crowded = client.get("/x/conversations/c1/stream", headers={"Accept": "text/event-stream"})
    assert 1000 < int(crowded.data.removeprefix(b"retry: ")) <= 21_000
    app.extensions["sessionstatus"].shutdown(2)


@pytest.mark.parametrize(
    "uri",
    [
        "redis://user:secret@host:port/0",
        "redis://user:secret@host:6379/x",
        "redis://user:secret@host:99999",
        "redis://user:secret@[host",
        "mysql://user:secret@host/0",
        "//user:secret@host",
        "user:secret@host",
        "",
    ],
)
def test_a_uri_that_cannot_be_one_stops_the_start_and_is_not_repeated(uri: str) -> None:
    app = Flask("host")
    app.config["SESSIONSTATUS_STORAGE_URI"] = uri
    with pytest.raises(ConfigurationError) as refused:
        SessionStatus(app)
    assert "SESSIONSTATUS_STORAGE_URI" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_wrong_options_stop_the_start() -> None:
    app = Flask("host")
    app.config.update(
        SESSIONSTATUS_STORAGE_URI="redis://:secret@localhost", SESSIONSTATUS_STORAGE_OPTIONS={"no_such_option": 1}
    )
    with pytest.raises(ConfigurationError, match="SESSIONSTATUS_STORAGE_OPTIONS"):
        SessionStatus(app)


def test_after_an_outage_the_unknown_is_503_for_two_heartbeats(redis_url: Any, mode: str) -> None:
    url = redis_url("newest")
    proxy = Proxy(int(url.rpartition(":")[2].partition("/")[0]))
    app = app_on(proxy.url, mode, SESSIONSTATUS_KEY_PREFIX=f"outage-{mode}:")
    client = app.test_client()
    store = app.extensions["sessionstatus"].store
    begin(store, a_session(), a_task())
    assert client.get("/x/conversations/c2/active-session").status_code == 404
    proxy.cut()
    assert client.get("/x/conversations/c1/active-session").status_code == 503
    proxy.mend()
    assert client.get("/x/conversations/c1/active-session").status_code == 200
    for path in ("conversations/c2/active-session", "conversations/c2/task-status", "sessions/s9"):
        response = client.get(f"/x/{path}")
        assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    stream = client.get("/x/conversations/c2/stream", headers={"Accept": "text/event-stream"})
    assert (stream.status_code, stream.data) == (200, b"retry: 1000\n")
    app.extensions["sessionstatus"].shutdown(2)
    proxy.close()


def test_the_memory_stores_uri_may_be_said_loudly(mode: str) -> None:
    app = app_on("memory://", mode)
    body = app.test_client().get("/x/health").json
    assert body is not None
    assert (body["status"], body["store"]) == ("ok", "memory")
