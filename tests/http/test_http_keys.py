"""A namespace key: checked when a session is made, and required on that session's other routes."""

from __future__ import annotations

from hmac import compare_digest
from typing import Any

import pytest
from harness import a_task, begin
from hosts import Host, MakeHost

from flask_sessionstatus.sessions import key_digest
from flask_sessionstatus.stores.base import SessionDraft

RIGHT = {"X-Namespace-Key": "right"}


def make(host: Host, **body: Any) -> Any:
    return host.post("/sessions", json={"conversationId": "c1", **body})


@pytest.fixture
def locked(host: Host) -> str:
    """A session that was made with the key `right`."""
    session_id: str = make(host, keyHash="right").json["id"]
    return session_id


def draft(session_id: str) -> SessionDraft:
    return SessionDraft(session_id, "c1", "u1", "nl")


def test_a_key_is_asked_of_the_host_when_a_session_is_made(host: Host) -> None:
    asked: list[tuple[str | None, str]] = []

    def verify(namespace_id: str | None, key_hash: str) -> bool:
        asked.append((namespace_id, key_hash))
        return compare_digest(key_hash, "right")

    host.extension.verify_key(verify)
    assert make(host, keyHash="right").status_code == 201
    for body in ({"keyHash": "wrong"}, {}):
        refused = make(host, **body)
        assert refused.status_code == 401
        assert refused.json == {"error": "The namespace key (keyHash) is missing or wrong."}
    assert asked == [("u1", "right"), ("u1", "wrong")]
    assert len(host.get("/sessions").json) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/messages"),
        ("POST", "/messages"),
        ("GET", "/tasks"),
        ("GET", "/tasks/t1"),
        ("GET", "/tasks/t1/result"),
        ("POST", "/tasks/t1/cancel"),
        ("GET", "/tasks/t1/events"),
        ("GET", "/stats"),
    ],
)
def test_every_route_of_the_session_wants_the_key(host: Host, locked: str, method: str, path: str) -> None:
    begin(host.store, draft(locked), a_task("t1")).end(result="1")
    body: dict[str, Any] = (
        {"json": {"role": "user", "content": "x"}} if path == "/messages" and method == "POST" else {}
    )
    for headers in ({}, {"X-Namespace-Key": "wrong"}, {"X-Namespace-Key": ""}, {"X-Namespace-Key": "ключ".encode()}):
        refused = host.request(method, f"/sessions/{locked}{path}", headers=headers, **body)
        assert refused.status_code == 401, headers
        assert refused.json["sessionId"] == locked
    assert host.request(method, f"/sessions/{locked}{path}?key=wrong", **body).status_code == 401
    assert host.request(method, f"/sessions/{locked}{path}", headers=RIGHT, **body).status_code in (200, 201, 202)


def test_the_key_may_travel_in_the_query_for_clients_that_send_no_headers(host: Host, locked: str) -> None:
    assert host.get(f"/sessions/{locked}?key=right").status_code == 200


def test_somebody_elses_session_is_unknown_whatever_key_is_shown(host: Host, locked: str) -> None:
    host.user = "u2"
    assert host.get(f"/sessions/{locked}", headers=RIGHT).status_code == 404
    assert host.get(f"/sessions/{locked}").status_code == 404


def test_conversation_routes_show_a_locked_session_only_to_who_has_the_key(host: Host, locked: str) -> None:
    begin(host.store, draft(locked), a_task("t1"))
    conversation = "/conversations/c1"
    assert host.get(f"{conversation}/active-session").status_code == 404
    assert host.get(f"{conversation}/task-status").status_code == 404
    assert host.get(f"{conversation}/stream").status_code == 204
    assert host.post(f"{conversation}/stop").status_code == 404
    assert host.get(f"{conversation}/resume/{locked}").status_code == 401
    assert host.get(f"{conversation}/active-session", headers=RIGHT).json["sessionId"] == locked
    assert host.get(f"{conversation}/task-status?key=right").json["isActive"] is True
    assert host.post(f"{conversation}/stop", headers=RIGHT).status_code == 202


def test_a_locked_session_hides_no_other_session_of_its_conversation(host: Host, locked: str) -> None:
    host.session("open")
    assert host.get("/conversations/c1/active-session").json["sessionId"] == "open"


def test_a_session_without_a_key_wants_none(host: Host) -> None:
    session_id = make(host).json["id"]
    assert host.get(f"/sessions/{session_id}").status_code == 200
    assert host.get(f"/sessions/{session_id}", headers=RIGHT).status_code == 200


def test_neither_the_key_nor_its_digest_is_ever_shown(host: Host, locked: str) -> None:
    digest = key_digest(locked, "right")
    begin(host.store, draft(locked), a_task("t1"))
    shown = [
        host.get(f"/sessions/{locked}", headers=RIGHT).text,
        host.get("/sessions").text,
        repr(host.store.session(locked)),
        repr(host.store.begin(draft(locked), a_task("t2"))),
    ]
    assert not any("right" in text or digest in text for text in shown)


@pytest.mark.parametrize("key", ["", "x" * 257, 7, "a\nb"])
def test_a_key_that_cannot_be_one_is_refused(make_host: MakeHost, key: object) -> None:
    refused = make(make_host(), keyHash=key)
    assert refused.status_code == 422
    assert "keyHash" in refused.json["errors"]


def test_a_route_of_the_hosts_own_gives_the_session_to_whom_the_routes_would(host: Host, locked: str) -> None:
    host.session("open")

    def own(session_id: str, **headers: str) -> tuple[int, str]:
        response = host.client.get(f"/conversation-of/{session_id}", headers=headers)
        return response.status_code, response.text

    assert own("open") == (200, "c1")
    assert own(locked)[0] == 401
    assert own(locked, **RIGHT) == (200, "c1")
    assert own("nobody") == (404, '{"error":"Session not found","sessionId":"nobody"}')
    host.user = "u2"
    assert own("open") == (404, '{"error":"Session not found","sessionId":"open"}')
    host.user = None
    assert own("open")[0] == 401
