"""The socket of a session before it is open: its URL, its connect deadline, and handshakes that are refused."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask
from harness import START
from hosts import PREFIX, Host, MakeHost, url
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import TestResponse

from flask_sessionstatus import ConfigurationError, SessionStatus, StoreUnavailable
from flask_sessionstatus.stores.base import Limits

PATH = "/live/socket"
HANDSHAKE = {
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
# A test client is no server with a connection: what comes as far as this was refused by nothing before.
PASSED = (500, "This server has no WebSockets: use gunicorn with gthread or gevent, or werkzeug's own.")
STRANGE = "a:b c?&#%ключ"


@pytest.fixture
def host(make_host: MakeHost) -> Host:
    return make_host(websocket_path=PATH)


def connect(host: Host, session_id: str | None = "s1", query: str = "", **headers: str) -> tuple[int, Any]:
    """Ask for a socket; the status and the sentence of the answer."""
    response = handshake(host, session_id, query, **headers)
    assert response.json is not None
    return response.status_code, response.json["error"]


def handshake(host: Host, session_id: str | None = "s1", query: str = "", **headers: str) -> TestResponse:
    named = {**HANDSHAKE, **{name.replace("_", "-"): value for name, value in headers.items()}}
    identified = f"session_id={url(session_id)}&" if session_id is not None else ""
    return host.client.get(f"{PATH}?{identified}{query}", headers={name: text for name, text in named.items() if text})


# The URL


def test_without_a_path_there_is_no_socket_and_no_deadline(make_host: MakeHost) -> None:
    host = make_host()
    made = host.post("/sessions").json
    assert made is not None
    assert made["websocketUrl"] is None
    assert made["expiresAt"] == START + Limits().session_ttl
    assert not any(rule.websocket for rule in host.app.url_map.iter_rules())


def test_a_path_without_the_extra_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flask_sessionstatus.http.websocket", "flask_sessionstatus.http.connection"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "wsproto", None)
    app = Flask("host")
    app.config["SESSIONSTATUS_WEBSOCKET_PATH"] = PATH
    with pytest.raises(ConfigurationError, match=r"pip install flask-sessionstatus\[websocket\]") as refused:
        SessionStatus(app)
    assert "SESSIONSTATUS_WEBSOCKET_PATH" in str(refused.value)
    assert app.extensions == {}


def test_a_blueprint_alone_adds_the_route_too() -> None:
    app = Flask("host")
    app.config.update(SESSIONSTATUS_STORAGE_URI="memory://", SESSIONSTATUS_WEBSOCKET_PATH=PATH)
    app.register_blueprint(SessionStatus(identify=lambda: "u1").create_blueprint(), url_prefix=PREFIX)
    assert [rule.rule for rule in app.url_map.iter_rules() if rule.websocket] == [PATH]


def test_each_session_tells_where_its_socket_is(host: Host) -> None:
    made = host.post("/sessions").json
    assert made is not None
    assert made["websocketUrl"] == f"ws://localhost{PATH}?session_id={made['id']}"
    found = host.get(f"/sessions/{made['id']}", base_url="https://example.org:8443").json
    assert found is not None
    assert found["websocketUrl"] == f"wss://example.org:8443{PATH}?session_id={made['id']}"
    changed = host.request("PATCH", f"/sessions/{made['id']}", json={"language": "de"}).json
    assert changed is not None
    assert changed["websocketUrl"] == made["websocketUrl"]


def test_the_url_of_any_id_is_encoded_and_leads_back_to_it(host: Host) -> None:
    host.session(STRANGE)
    found = host.get(f"/sessions/{url(STRANGE)}").json
    assert found is not None
    assert found["websocketUrl"].isascii()
    parts = urlsplit(found["websocketUrl"])
    assert (parts.path, parse_qs(parts.query), parts.fragment) == (PATH, {"session_id": [STRANGE]}, "")
    assert connect(host, STRANGE) == PASSED


FORWARDED = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "example.org",
    "X-Forwarded-Port": "8443",
    "X-Forwarded-Prefix": "/app",
    "X-Forwarded-For": "1.2.3.4",
}


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [
        ({}, "ws://localhost"),
        ({"x_proto": 1}, "wss://localhost"),
        ({"x_proto": 1, "x_host": 1}, "wss://example.org"),
        ({"x_proto": 1, "x_host": 1, "x_port": 1, "x_prefix": 1}, "wss://example.org:8443/app"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_forwarded_headers_count_as_far_as_they_are_trusted(
    make_host: MakeHost, trusted: dict[str, int], expected: str
) -> None:
    host = make_host(fresh=True, websocket_path=PATH)
    if trusted:
        host.app.wsgi_app = ProxyFix(host.app.wsgi_app, **{"x_for": 0, "x_proto": 0, **trusted})  # type: ignore[method-assign,arg-type]
    made = host.post("/sessions", headers=FORWARDED).json
    assert made is not None
    assert made["websocketUrl"] == f"{expected}{PATH}?session_id={made['id']}"


def test_an_app_that_is_mounted_below_a_path_says_so(make_host: MakeHost) -> None:
    host = make_host(fresh=True, websocket_path=PATH)
    host.app.wsgi_app = DispatcherMiddleware(Flask("outer").wsgi_app, {"/a b": host.app.wsgi_app})  # type: ignore[method-assign]
    made = host.client.post(f"/a b{PREFIX}/sessions").json
    assert made is not None
    assert made["websocketUrl"] == f"ws://localhost/a%20b{PATH}?session_id={made['id']}"


# The connect deadline


def test_a_session_made_over_http_waits_for_its_socket_until_the_deadline(make_host: MakeHost) -> None:
    host = make_host(websocket_path=PATH, connect_deadline=7)
    made, other = host.post("/sessions").json, host.post("/sessions").json
    assert made is not None
    assert other is not None
    assert made["expiresAt"] == START + 7000
    host.post(f"/sessions/{other['id']}/messages", json={"role": "user", "content": "hello"})
    host.clock.move(7000)
    assert connect(host, made["id"]) == (404, "Session not found")
    assert host.get(f"/sessions/{other['id']}").status_code == 200


# Refused handshakes


def test_a_plain_request_is_no_handshake(host: Host) -> None:
    host.session()
    assert host.client.get(f"{PATH}?session_id=s1").status_code == 400
    assert host.client.post(PATH).status_code == 405


def test_who_may_connect_comes_as_far_as_the_connection(host: Host) -> None:
    host.session()
    assert connect(host) == PASSED


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Version": "12"},
        {"Sec-WebSocket-Version": ""},
        {"Sec-WebSocket-Key": ""},
        {"Sec-WebSocket-Key": "short"},
        {"Sec-WebSocket-Key": "ü" * 24},
        {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ"},
    ],
    ids=str,
)
def test_a_handshake_that_is_none_is_400(host: Host, headers: dict[str, str]) -> None:
    host.session()
    for name, value in headers.items():
        status, sentence = connect(host, **{name.replace("-", "_"): value})
        assert (status, "WebSocket" in sentence) == (400, True)


def test_without_a_rule_nobody_may_connect(make_host: MakeHost) -> None:
    host = make_host(anonymous=True, websocket_path=PATH)
    status, sentence = connect(host)
    assert (status, "identify" in sentence) == (403, True)
    assert host.calls == []


def test_whom_nobody_knows_may_not_connect(host: Host) -> None:
    host.session()
    host.calls.clear()
    host.user = None
    assert connect(host)[0] == 401
    assert host.calls == []


def test_unknown_expired_deleted_and_foreign_sessions_are_one_and_the_same_404(host: Host) -> None:
    host.session("expired", "c1", for_socket=True)
    host.clock.move(Limits().connect_deadline)
    host.session("deleted", "c2")
    host.store.delete_session("deleted")
    host.session("foreign", "c3", "u2")
    host.calls.clear()
    for name in ("unknown", "expired", "deleted", "foreign"):
        response = handshake(host, name)
        assert (response.status_code, response.json) == (404, {"error": "Session not found", "sessionId": name})
        assert host.calls == ["session"]
        host.calls.clear()


def test_a_rule_of_the_hosts_decides(host: Host) -> None:
    host.session("s1", "c1", "u2")
    host.extension.can_access(lambda namespace, conversation: conversation == "c1")
    assert connect(host) == PASSED
    host.extension.can_access(lambda namespace, conversation: False)
    assert connect(host) == (404, "Session not found")


@pytest.mark.parametrize(
    ("session_id", "query", "field"),
    [(None, "", "sessionId"), ("", "", "sessionId"), ("a/b", "", "sessionId"), ("s1", "cursor=x", "cursor")],
)
def test_what_cannot_be_an_id_or_a_cursor_is_422(host: Host, session_id: str | None, query: str, field: str) -> None:
    host.session()
    response = handshake(host, session_id, query)
    assert response.status_code == 422
    assert response.json is not None
    assert list(response.json["errors"]) == [field]


def test_a_cursor_and_a_key_are_no_hindrance(host: Host) -> None:
    host.session()
    assert connect(host, query="cursor=1704123456789-42&key=secret") == PASSED


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost", 500),
        ("HTTP://LocalHost", 500),
        ("https://localhost", 403),
        ("http://localhost:8000", 403),
        ("http://localhost.example.org", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://friend.example:8080", 500),
        ("https://FRIEND.example", 500),
        ("http://friend.example", 403),
        ("https://friend.example:444", 403),
    ],
)
def test_only_pages_of_this_origin_and_of_those_named_may_connect(
    make_host: MakeHost, origin: str, status: int
) -> None:
    host = make_host(websocket_path=PATH, websocket_origins=("http://friend.example:8080", "https://Friend.example"))
    host.session()
    host.calls.clear()
    assert connect(host, Origin=origin)[0] == status
    if status == 403:
        assert host.calls == []


def test_the_origin_is_compared_as_flask_sees_the_request(make_host: MakeHost) -> None:
    host = make_host(fresh=True, websocket_path=PATH)
    host.session()
    forwarded = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": "example.org"}
    assert connect(host, Origin="https://example.org", **forwarded)[0] == 403
    host.app.wsgi_app = ProxyFix(host.app.wsgi_app, x_for=0, x_proto=1, x_host=1)  # type: ignore[method-assign]
    assert connect(host, Origin="https://example.org", **forwarded) == PASSED
    assert connect(host, Origin="http://localhost", **forwarded)[0] == 403


@pytest.fixture
def a_connection(host: Host) -> Iterator[None]:
    """Requests come over a connection, as from a server."""
    ours, theirs = socket.socketpair()
    host.client.environ_base["werkzeug.socket"] = ours
    yield
    del host.client.environ_base["werkzeug.socket"]
    ours.close()
    theirs.close()


@pytest.mark.usefixtures("a_connection")
@pytest.mark.parametrize("name", ["session", "touch"])
def test_a_store_that_is_away_is_503(host: Host, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def away(*args: object) -> None:
        raise StoreUnavailable("The store is unavailable. Try again in a moment.")

    host.session()
    monkeypatch.setattr(host.store._store, name, away)
    response = handshake(host)
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")


@pytest.mark.usefixtures("a_connection")
def test_a_session_that_goes_while_one_connects_is_404(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.session()
    monkeypatch.setattr(host.store._store, "touch", lambda session_ids: [False])
    assert connect(host) == (404, "Session not found")


def test_a_locked_session_wants_its_key_before_the_handshake(host: Host) -> None:
    session_id = host.post("/sessions", json={"keyHash": "right"}).json["id"]
    assert connect(host, session_id)[0] == 401
    assert connect(host, session_id, "key=wrong")[0] == 401
    assert connect(host, session_id, "key=right") == PASSED
    assert connect(host, session_id, X_Namespace_Key="right") == PASSED
