"""Sessions over HTTP: made, listed, changed, deleted, their turns and figures."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from harness import START
from hosts import PREFIX, Host, MakeHost

from flask_sessionstatus import InvalidValue
from flask_sessionstatus.stores.base import Limits
from flask_sessionstatus.stores.bounds import NAMES, STEP

TTL = Limits().session_ttl
FIELDS = {
    *("id", "namespaceId", "conversationId", "status", "createdAt", "lastActivity", "expiresAt", "deviceType"),
    *("clientVersion", "language", "metadata", "messageCount", "pendingTasksCount", "currentSlots"),
    *("currentTemplateId", "latestTask", "websocketUrl", "lastAccessed", "accessCount"),
}


def test_a_session_is_made_with_all_it_was_given(host: Host) -> None:
    body = {
        "conversationId": "c1",
        "namespaceId": "u1",
        "deviceType": "phone",
        "clientVersion": "1.2",
        "language": "de",
        "metadata": {"a": [1, None], "ключ": {}},
    }
    response = host.post("/sessions", json=body)
    assert response.status_code == 201
    made = response.json
    assert made is not None
    assert set(made) == FIELDS
    assert {name: made[name] for name in body} == body
    assert (made["status"], made["createdAt"], made["lastActivity"]) == ("idle", START, START)
    assert made["expiresAt"] == START + TTL
    assert (made["messageCount"], made["pendingTasksCount"], made["latestTask"], made["websocketUrl"]) == (
        0,
        0,
        None,
        None,
    )
    assert response.headers["Location"] == f"{PREFIX}/sessions/{made['id']}"
    found = host.client.get(response.headers["Location"]).json
    assert found is not None
    assert {**found, "lastAccessed": None, "accessCount": 0} == {**made, "lastAccessed": None, "accessCount": 0}


@pytest.mark.parametrize("options", [{}, {"json": {}}, {"data": b"", "content_type": "text/plain"}])
def test_a_session_can_be_made_of_nothing(host: Host, options: dict[str, object]) -> None:
    response = host.post("/sessions", **options)
    assert response.status_code == 201
    made = response.json
    assert made is not None
    assert UUID(made["conversationId"]).version == 4
    assert UUID(made["id"]).version == 4
    assert made["language"] == "nl"
    assert made["namespaceId"] == "u1"


def test_a_client_cannot_choose_the_sessions_id(host: Host) -> None:
    for name in ("id", "sessionId", "session_id"):
        response = host.post("/sessions", json={name: "mine"})
        assert response.status_code == 422
        assert response.json is not None
        assert list(response.json["errors"]) == [name]
    assert host.get("/sessions").json == []


def test_more_names_of_metadata_than_there_may_be_are_422(host: Host) -> None:
    names = {f"m{number}": number for number in range(NAMES + 1)}
    refused = host.post("/sessions", json={"metadata": names})
    assert (refused.status_code, set((refused.json or {})["errors"])) == (422, {"metadata"})
    names.popitem()
    made = host.post("/sessions", json={"metadata": names})
    assert made.status_code == 201
    path = f"/sessions/{(made.json or {})['id']}"
    refused = host.request("PATCH", path, json={"metadata": {"more": 1}})
    assert (refused.status_code, set((refused.json or {})["errors"])) == (422, {"metadata"})
    turns = [{"role": "user", "content": "x"}] * (STEP + 1)
    assert host.post(f"{path}/messages", json=turns).status_code == 422
    assert host.get(f"{path}/messages").json == []


def test_a_full_namespace_is_429_with_retry_after(make_host: MakeHost) -> None:
    host = make_host(max_sessions_per_namespace=1)
    made = host.post("/sessions").json
    assert made is not None
    refused = host.post("/sessions")
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    host.request("DELETE", f"/sessions/{made['id']}")
    assert host.post("/sessions").status_code == 201


def test_the_listing_is_a_bare_array_of_summaries(host: Host) -> None:
    for n in range(3):
        host.session(f"s{n}", f"c{n}")
        host.clock.move(10)
    host.session("other", "c9", "u2")
    response = host.get("/sessions")
    assert response.status_code == 200
    body = response.json
    assert body is not None
    assert [session["id"] for session in body] == ["s2", "s1", "s0"]
    assert set(body[0]) == {"id", "conversationId", "status", "messageCount", "createdAt", "lastActivity"}
    assert "Link" not in response.headers


def test_pages_are_linked(host: Host) -> None:
    for n in range(5):
        host.session(f"s{n}", "c:1 ключ")
        host.clock.move(10)
    path: str | None = f"{PREFIX}/sessions?limit=2&conversationId=c%3A1%20%D0%BA%D0%BB%D1%8E%D1%87"
    seen: list[str] = []
    pages = 0
    while path is not None:
        response = host.client.get(path)
        assert response.status_code == 200
        assert response.json is not None
        seen += [session["id"] for session in response.json]
        link = response.headers.get("Link")
        assert link is None or link.endswith('>; rel="next"')
        path = link[1 : link.index(">")] if link is not None else None
        pages += 1
    assert seen == ["s4", "s3", "s2", "s1", "s0"]
    assert pages == 3


def test_the_listing_can_be_narrowed(host: Host) -> None:
    host.begin("active", "c1", "t1")
    host.begin("done", "c1", "t2").end()
    host.session("idle", "c2")
    for query, expected in {
        "status=active": ["active"],
        "status=completed": ["done"],
        "status=idle": ["idle"],
        "conversationId=c2": ["idle"],
        "conversationId=c1&status=active": ["active"],
    }.items():
        body = host.get(f"/sessions?{query}").json
        assert body is not None
        assert [session["id"] for session in body] == expected


def test_a_narrowed_listing_fills_its_page(host: Host) -> None:
    host.session("wanted", "c1")
    for n in range(5):
        host.clock.move(10)
        host.session(f"s{n}", "c2")
    path: str | None = f"{PREFIX}/sessions?limit=2&conversationId=c1"
    seen: list[str] = []
    while path is not None:
        response = host.client.get(path)
        assert response.json is not None
        seen += [session["id"] for session in response.json]
        link = response.headers.get("Link")
        path = link[1 : link.index(">")] if link is not None else None
    assert seen == ["wanted"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "status=running", "cursor=x", "conversationId=%0A"]
)
def test_a_wrong_listing_query_is_422(host: Host, query: str) -> None:
    host.session()
    response = host.get(f"/sessions?{query}")
    assert response.status_code == 422
    assert response.json is not None
    assert list(response.json["errors"]) == [query.partition("=")[0]]


def test_a_session_shows_its_latest_task_and_what_is_pending(host: Host) -> None:
    host.begin(task="t1")
    host.begin(task="t2", pending=True)
    body = host.get("/sessions/s1").json
    assert body is not None
    assert set(body) == FIELDS
    assert (body["status"], body["pendingTasksCount"], body["latestTask"]["id"]) == ("active", 2, "t2")


def test_metadata_is_merged_and_null_removes(host: Host) -> None:
    host.session(metadata={"kept": 1, "gone": 2})
    host.clock.move(10)
    response = host.request(
        "PATCH", "/sessions/s1", json={"metadata": {"gone": None, "new": {"a": []}}, "language": "fr"}
    )
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["metadata"] == {"kept": 1, "new": {"a": []}}
    assert (response.json["language"], response.json["lastActivity"]) == ("fr", START + 10)
    unchanged = host.request("PATCH", "/sessions/s1")
    assert unchanged.status_code == 200
    assert unchanged.json is not None
    assert unchanged.json["metadata"] == {"kept": 1, "new": {"a": []}}


def test_a_deleted_session_is_closed_and_gone(host: Host) -> None:
    job = host.begin()
    response = host.request("DELETE", "/sessions/s1")
    assert (response.status_code, response.json) == (200, {"status": "closed", "sessionId": "s1"})
    unknown = {"error": "Session not found", "sessionId": "s1"}
    for method, path in [
        ("GET", "/sessions/s1"),
        ("DELETE", "/sessions/s1"),
        ("PATCH", "/sessions/s1"),
        ("GET", "/sessions/s1/messages"),
        ("GET", "/sessions/s1/tasks"),
        ("GET", "/sessions/s1/stats"),
    ]:
        again = host.request(method, path)
        assert (again.status_code, again.json) == (404, unknown), path
    assert host.get("/conversations/c1/active-session").status_code == 404
    assert job.append(["late"]).verdict.value == "deleted"


# Messages


TURN = {
    "role": "user",
    "content": "Wat kost het?",
    "sources": [{"url": "x"}],
    "resolvedQuestion": "Wat kost een paspoort?",
    "templateId": "t",
    "slots": {"place": "Utrecht", "gone": None},
    "results": {"rows": [1]},
}


def test_a_turn_is_stored_and_read_back(host: Host) -> None:
    host.session()
    host.clock.move(10)
    response = host.post("/sessions/s1/messages", json=TURN)
    assert response.status_code == 201
    stored = {**TURN, "position": 0, "timestamp": START + 10}
    assert response.json == stored
    assert host.get("/sessions/s1/messages").json == [stored]
    session = host.get("/sessions/s1").json
    assert session is not None
    assert (session["messageCount"], session["currentSlots"], session["currentTemplateId"]) == (
        1,
        {"place": "Utrecht"},
        "t",
    )


def test_slots_merge_and_null_clears_one(host: Host) -> None:
    host.session()
    for slots in ({"a": 1, "b": 2}, {"b": None, "c": [3]}):
        host.post("/sessions/s1/messages", json={"role": "user", "content": "x", "slots": slots})
    session = host.get("/sessions/s1").json
    assert session is not None
    assert session["currentSlots"] == {"a": 1, "c": [3]}


def test_an_array_of_turns_is_one_step(host: Host) -> None:
    host.session()
    response = host.post("/sessions/s1/messages", json=[{"role": "user", "content": str(n)} for n in range(3)])
    assert response.status_code == 201
    body = response.json
    assert body is not None
    assert [(turn["position"], turn["content"]) for turn in body] == [(0, "0"), (1, "1"), (2, "2")]


def test_messages_are_paged_from_the_end(host: Host) -> None:
    host.session()
    host.post("/sessions/s1/messages", json=[{"role": "user", "content": str(n)} for n in range(60)])
    for query, expected in {
        "": range(10, 60),
        "?limit=2": range(58, 60),
        "?limit=2&before=10": range(8, 10),
        "?before=0": range(0),
        "?limit=200": range(60),
    }.items():
        body = host.get(f"/sessions/s1/messages{query}").json
        assert body is not None
        assert [turn["position"] for turn in body] == list(expected)


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "before=-1", "before=x"])
def test_a_wrong_page_of_messages_is_422(host: Host, query: str) -> None:
    host.session()
    response = host.get(f"/sessions/s1/messages?{query}")
    assert response.status_code == 422
    assert response.json is not None
    assert list(response.json["errors"]) == [query.partition("=")[0]]


@pytest.mark.parametrize("role", ["assistant", "system", "tool"])
def test_a_client_cannot_write_as_the_system(host: Host, role: str) -> None:
    host.session()
    response = host.post("/sessions/s1/messages", json={"role": role, "content": "x"})
    assert response.status_code == 422
    assert response.json is not None
    assert list(response.json["errors"]) == ["role"]
    assert host.get("/sessions/s1/messages").json == []


def test_a_host_may_let_clients_write_other_roles(make_host: MakeHost) -> None:
    host = make_host(client_roles=("user", "assistant"))
    host.session()
    assert host.post("/sessions/s1/messages", json={"role": "assistant", "content": "x"}).status_code == 201
    assert host.post("/sessions/s1/messages", json={"role": "tool", "content": "x"}).status_code == 422


@pytest.mark.parametrize(
    ("turns", "fields"),
    [
        ([{"role": "user", "content": "ok"}, {"role": "user"}], ["1.content"]),
        ([{"role": "x", "content": "a"}, {"role": "user", "content": 1}], ["0.role", "1.content"]),
        ([{"role": "user", "content": "a", "position": 3}, 7], ["0.position", "1"]),
        ([{"role": "user", "content": "ok"}, {"role": "assistant", "content": "x"}], ["1.role"]),
        ([], ["body"]),
    ],
)
def test_errors_in_an_array_are_named_by_position_and_nothing_is_stored(
    host: Host, turns: list[object], fields: list[str]
) -> None:
    host.session()
    response = host.post("/sessions/s1/messages", json=turns)
    assert response.status_code == 422
    assert response.json is not None
    assert sorted(response.json["errors"]) == fields
    assert host.get("/sessions/s1/messages").json == []


# Figures


def test_stats_hold_no_personal_data(host: Host) -> None:
    host.session("conversation:user123", device_type="phone")
    host.begin("conversation:user123")
    host.clock.move(65_000)
    body = host.get("/sessions/conversation%3Auser123/stats").json
    assert body is not None
    assert (body["sessionIdTruncated"], body["deviceType"]) == ("conversa", "phone")
    assert set(body) == {
        *("sessionIdTruncated", "status", "ageSeconds", "messageCount", "pendingTasksCount", "deviceType"),
        *("audioChunksReceived", "audioChunksProcessed", "counters"),
    }


def test_the_age_in_the_stats_is_the_time_since_the_creation(host: Host) -> None:
    host.session()
    host.clock.move(65_000)
    body = host.get("/sessions/s1/stats").json
    assert body is not None
    assert body["ageSeconds"] == 65


def test_health_says_that_the_store_answers(host: Host) -> None:
    host.user = None
    body = host.get("/health").json
    assert body is not None
    assert set(body) == {"status", "store", "degraded", "latencyMs"}
    assert (body["status"], body["store"], body["degraded"]) == ("ok", host.store.name, False)


def test_the_operators_figures_are_closed_until_the_host_opens_them(host: Host) -> None:
    closed = host.get("/stats")
    assert (closed.status_code, "is_operator" in closed.text) == (403, True)
    host.extension.is_operator(lambda: False)
    refused = host.get("/stats")
    assert (refused.status_code, refused.json) == (403, {"error": "Only operators may read this."})
    host.extension.is_operator(lambda: True)
    body = host.get("/stats").json
    assert body is not None
    assert {"sessionsCreated", "sessionsExpired", "sessionsEvicted", "cacheHits", "cacheMisses"} <= set(body)
    assert {"activeSessions", "redisAvailable"} <= set(body)


def test_a_read_is_counted_and_written_with_the_beat(host: Host) -> None:
    host.session()
    for _ in range(3):
        host.get("/sessions/s1")
    before = host.store.session("s1")
    host.state.engine.beats.beat()
    body = host.get("/sessions/s1").json
    assert body is not None
    assert body["accessCount"] == 3
    assert body["lastAccessed"] == START
    assert (body["lastActivity"], body["expiresAt"]) == (before.last_activity, before.expires_at)


def test_what_the_host_counts_is_shown_in_the_sessions_stats(host: Host) -> None:
    host.session()
    with host.app.app_context():
        for _ in range(3):
            host.extension.sessions.count("s1", words=7, corrections=1)
        host.extension.sessions.count("s1", corrections=-1)
        host.extension.sessions.count("unknown", words=1)
    assert host.get("/sessions/s1/stats").json["counters"] == {}  # type: ignore[index]
    host.state.engine.beats.beat()
    assert host.get("/sessions/s1/stats").json["counters"] == {"words": 21, "corrections": 2}  # type: ignore[index]


@pytest.mark.parametrize("amounts", [{"a": True}, {"a": 1.5}, {"a": "1"}, {"a": 10**12 + 1}, {"a/b": 1}, {"": 1}])
def test_only_whole_numbers_are_counted_and_only_under_names(host: Host, amounts: dict[str, Any]) -> None:
    with host.app.app_context(), pytest.raises(InvalidValue):
        host.extension.sessions.count("s1", **amounts)


def test_what_was_counted_is_written_when_the_process_ends(host: Host) -> None:
    host.session()
    with host.app.app_context():
        host.extension.sessions.count("s1", words=7)
    store = host.state.store
    host.state.engine.shutdown(1)
    assert store.session("s1").counters == {"words": 7}
