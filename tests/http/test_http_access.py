"""Who may see and do what, and that nothing can be found out by asking."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hosts import Host, MakeHost

CONVERSATION = [
    ("GET", "/conversations/c1/active-session"),
    ("GET", "/conversations/c1/task-status"),
    ("GET", "/conversations/c1/resume/s1"),
    ("POST", "/conversations/c1/resume/s1"),
    ("GET", "/conversations/c1/stream"),
    ("POST", "/conversations/c1/stop"),
]
SESSION = [
    ("GET", "/sessions/s1"),
    ("PATCH", "/sessions/s1"),
    ("DELETE", "/sessions/s1"),
    ("GET", "/sessions/s1/messages"),
    ("POST", "/sessions/s1/messages"),
    ("GET", "/sessions/s1/stats"),
    ("GET", "/sessions/s1/tasks"),
    ("GET", "/sessions/s1/tasks/t1"),
    ("GET", "/sessions/s1/tasks/t1/result"),
    ("GET", "/sessions/s1/tasks/t1/events"),
    ("POST", "/sessions/s1/tasks/t1/cancel"),
]
COLLECTION = [("GET", "/sessions"), ("POST", "/sessions")]


@pytest.mark.parametrize(("method", "path"), CONVERSATION + SESSION + COLLECTION)
def test_without_a_rule_every_route_is_403_and_says_what_to_set(make_host: MakeHost, method: str, path: str) -> None:
    host = make_host(anonymous=True)
    response = host.request(method, path)
    assert response.status_code == 403
    assert response.json is not None
    assert "identify" in response.json["error"]
    assert "SESSIONSTATUS_ALLOW_ANONYMOUS" in response.json["error"]
    assert host.calls == []


@pytest.mark.parametrize(("method", "path"), CONVERSATION + SESSION + COLLECTION)
def test_whom_nobody_knows_is_401_before_anything_is_read(host: Host, method: str, path: str) -> None:
    host.begin()
    host.calls.clear()
    host.user = None
    response = host.request(method, path)
    assert response.status_code == 401
    assert response.json is not None
    assert set(response.json) == {"error"}
    assert host.calls == []


@pytest.mark.parametrize(("method", "path"), CONVERSATION + SESSION)
def test_somebody_elses_is_answered_as_unknown(host: Host, method: str, path: str) -> None:
    """The same status, the same body and the same calls of the store, so that ids cannot be probed."""
    options: dict[str, Any] = {"json": {"role": "user", "content": "x"}} if path.endswith("messages") else {}
    if method == "GET":
        options = {}
    host.user = "u2"
    unknown = host.request(method, path, **options)
    unknown_calls = list(host.calls)
    host.begin(namespace_id="u1").end(result="1")
    host.begin(task="t2")
    before = host.store.snapshot("c1").tasks
    host.calls.clear()
    foreign = host.request(method, path, **options)
    assert (foreign.status_code, foreign.data) == (unknown.status_code, unknown.data)
    assert foreign.status_code == (204 if path.endswith("/stream") else 404)
    assert host.calls == unknown_calls
    assert host.store.snapshot("c1").tasks == before


@pytest.mark.parametrize(("method", "path"), CONVERSATION)
def test_a_refused_conversation_is_403_before_anything_is_read(host: Host, method: str, path: str) -> None:
    host.begin()
    host.calls.clear()
    host.extension.can_access(lambda namespace, conversation: False)
    response = host.request(method, path)
    assert response.status_code == 403
    assert response.json is not None
    assert response.json["conversationId"] == "c1"
    assert host.calls == []


@pytest.mark.parametrize(("method", "path"), SESSION)
def test_a_refused_session_is_answered_as_unknown(host: Host, method: str, path: str) -> None:
    host.extension.can_access(lambda namespace, conversation: False)
    unknown = host.request(method, path)
    host.begin()
    refused = host.request(method, path)
    assert (refused.status_code, refused.data) == (unknown.status_code, unknown.data)
    assert refused.status_code == 404


def test_whom_the_host_grants_a_conversation_may_do_there_what_its_owner_may(host: Host) -> None:
    job = host.begin(namespace_id="u1")
    asked: list[tuple[str | None, str]] = []

    def can_access(namespace: str | None, conversation: str) -> bool:
        asked.append((namespace, conversation))
        return True

    host.extension.can_access(can_access)
    host.user = "u2"
    assert host.get("/conversations/c1/active-session").status_code == 200
    assert host.get("/sessions/s1").status_code == 200
    assert host.post("/sessions/s1/messages", json={"role": "user", "content": "x"}).status_code == 201
    assert host.post("/conversations/c1/stop").status_code == 202
    assert job.task.cancel_requested_at is not None
    assert host.request("DELETE", "/sessions/s1").status_code == 200
    assert set(asked) == {("u2", "c1")}


def test_a_session_is_not_made_in_a_refused_conversation(host: Host) -> None:
    host.extension.can_access(lambda namespace, conversation: conversation != "c1")
    response = host.post("/sessions", json={"conversationId": "c1"})
    assert response.status_code == 403
    assert host.calls == []
    assert host.post("/sessions", json={"conversationId": "c2"}).status_code == 201


def test_the_first_session_decides_whose_a_conversation_is(host: Host) -> None:
    host.session("first", "c1", "u1")
    host.clock.move(10)
    host.user = "u2"
    host.post("/sessions", json={"conversationId": "c1"})
    assert host.get("/conversations/c1/active-session").status_code == 404
    host.user = "u1"
    assert host.get("/conversations/c1/active-session").status_code == 200


def test_a_namespace_id_that_is_not_the_callers_is_403(host: Host) -> None:
    response = host.post("/sessions", json={"namespaceId": "u2"})
    assert response.status_code == 403
    assert host.calls == []
    assert host.post("/sessions", json={"namespaceId": "u1"}).status_code == 201


@pytest.mark.parametrize("user", [7, UUID(int=5), "ключ", "a:b *"])
def test_a_namespace_may_be_a_text_a_number_or_a_uuid(host: Host, user: Any) -> None:
    host.user = user
    made = host.post("/sessions", json={"conversationId": "c1"})
    assert made.status_code == 201
    assert made.json is not None
    assert made.json["namespaceId"] == str(user)
    assert host.get("/conversations/c1/active-session").status_code == 200
    listed = host.get("/sessions").json
    assert listed is not None
    assert len(listed) == 1


@pytest.mark.parametrize("method", ["OPTIONS", "HEAD"])
def test_preflight_is_never_checked_and_head_is(host: Host, method: str) -> None:
    host.begin()
    host.user = None
    response = host.request(method, "/conversations/c1/active-session")
    assert response.status_code == (200 if method == "OPTIONS" else 401)


def test_health_is_never_checked(make_host: MakeHost) -> None:
    host = make_host(anonymous=True)
    assert host.get("/health").status_code == 200


# Anonymous hosts


def test_an_anonymous_host_has_no_owners(make_host: MakeHost) -> None:
    host = make_host(anonymous=True, allow_anonymous=True)
    made = host.post("/sessions", json={"conversationId": "c1", "namespaceId": "anybody"})
    assert made.status_code == 201
    assert made.json is not None
    assert made.json["namespaceId"] == "anybody"
    host.begin("s2", "c2", namespace_id="somebody")
    assert host.get(f"/sessions/{made.json['id']}").status_code == 200
    assert host.get("/conversations/c2/active-session").status_code == 200
    listed = host.get("/sessions").json
    assert listed is not None
    assert {session["conversationId"] for session in listed} == {"c1", "c2"}
    assert host.post("/conversations/c2/stop").status_code == 202


def test_in_an_anonymous_host_a_session_needs_no_namespace(make_host: MakeHost) -> None:
    host = make_host(anonymous=True, allow_anonymous="yes")
    made = host.post("/sessions").json
    assert made is not None
    assert made["namespaceId"] is None
    assert host.get(f"/conversations/{made['conversationId']}/active-session").status_code == 200


def test_identify_goes_before_anonymous_use(make_host: MakeHost) -> None:
    host = make_host(allow_anonymous=True)
    host.session("s1", "c1", "somebody")
    assert host.get("/sessions/s1").status_code == 404
    assert host.get("/sessions").json == []


def test_nobody_makes_a_session_in_a_conversation_of_somebody_else(host: Host) -> None:
    host.begin("s1")
    host.user = "u2"
    response = host.post("/sessions", json={"conversationId": "c1"})
    assert response.status_code == 404
    assert host.get("/sessions").json == []
    host.user = "u1"
    body = host.get("/conversations/c1/active-session").json
    assert body is not None
    assert body["sessionId"] == "s1"


def test_a_lost_tasks_stream_is_over_for_a_cursor_past_its_tail(host: Host) -> None:
    job = host.begin()
    job.append(["a"])
    host.clock.move(60_000)
    past = host.get(f"/conversations/c1/resume/s1?cursor={job.epoch}-9")
    assert past.status_code == 204


def test_a_change_of_nothing_is_no_activity(host: Host) -> None:
    host.session()
    host.clock.move(5_000)
    before = host.get("/sessions/s1").json
    after = host.request("PATCH", "/sessions/s1", json={}).json
    assert before is not None
    assert after is not None
    assert (after["lastActivity"], after["expiresAt"]) == (before["lastActivity"], before["expiresAt"])
