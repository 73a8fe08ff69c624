"""What is running for a conversation: exact bodies, exact refusals, revalidation, stop."""

from __future__ import annotations

import pytest
from harness import LEASE_MS, START, STRANGE_IDS
from hosts import Host, MakeHost, events, url

from flask_sessionstatus.stores.base import Change, Limits
from flask_sessionstatus.stores.bounds import LIVE_TASKS, RECENT_SESSIONS

TTL = Limits().session_ttl


def test_active_session_has_exactly_its_six_keys(host: Host) -> None:
    job = host.begin("conversation:user123:msg456", "c1")
    host.clock.move(1000)
    job.append(["a", "b"])
    response = host.get("/conversations/c1/active-session")
    assert response.status_code == 200
    assert response.json == {
        "sessionId": "conversation:user123:msg456",
        "status": "active",
        "cursor": f"{job.epoch}-2",
        "conversationId": "c1",
        "startedAt": START,
        "lastActivity": START + 1000,
    }
    assert response.content_type == "application/json"


def test_task_status_has_exactly_its_four_keys(host: Host) -> None:
    job = host.begin()
    assert host.get("/conversations/c1/task-status").json == {
        "isActive": True,
        "sessionId": "s1",
        "estimatedCompletion": None,
        "conversationId": "c1",
    }
    job.append(change=Change(current=1, total=2, remaining=60_000))
    body = host.get("/conversations/c1/task-status").json
    assert body is not None
    assert body["estimatedCompletion"] == START + 60_000
    host.clock.move(5000)
    job.end()
    assert host.get("/conversations/c1/task-status").json == {
        "isActive": False,
        "sessionId": "s1",
        "estimatedCompletion": START + 5000,
        "conversationId": "c1",
    }


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("active-session", "No active session found"),
        ("task-status", "No background task found"),
    ],
)
def test_an_unknown_conversation_is_404_with_exactly_this_body(host: Host, path: str, sentence: str) -> None:
    response = host.get(f"/conversations/c1/{path}")
    assert response.status_code == 404
    assert response.json == {"error": sentence, "conversationId": "c1"}


def test_a_conversation_without_a_task_has_a_session_and_no_task_status(host: Host) -> None:
    host.session()
    body = host.get("/conversations/c1/active-session").json
    assert body is not None
    assert (body["status"], body["cursor"]) == ("idle", "0-0")
    assert host.get("/conversations/c1/task-status").status_code == 404


@pytest.mark.parametrize(
    ("state", "status", "active"),
    [
        ("pending", "active", True),
        ("running", "active", True),
        ("completed", "completed", False),
        ("error", "idle", False),
        ("cancelled", "idle", False),
        ("lost", "idle", False),
    ],
)
def test_each_state_of_a_task_has_its_word(host: Host, state: str, status: str, active: bool) -> None:
    job = host.begin(pending=state == "pending")
    if state in ("completed", "error", "cancelled"):
        job.end(state)
    if state == "lost":
        host.clock.move(LEASE_MS)
    session, task = host.get("/conversations/c1/active-session").json, host.get("/conversations/c1/task-status").json
    assert session is not None
    assert task is not None
    assert (session["status"], task["isActive"]) == (status, active)


def test_the_session_with_a_live_task_comes_before_a_newer_one(host: Host) -> None:
    host.begin("old", "c1", "t1")
    host.clock.move(10)
    host.begin("new", "c1", "t2").end()
    host.session("newest", "c1")
    body = host.get("/conversations/c1/active-session").json
    assert body is not None
    assert body["sessionId"] == "old"


def test_without_a_live_task_the_latest_task_decides_and_then_the_creation(host: Host) -> None:
    host.session("first")
    host.clock.move(10)
    host.session("second")
    body = host.get("/conversations/c1/active-session").json
    assert body is not None
    assert body["sessionId"] == "second"
    host.begin("first", task="t1").end()
    body = host.get("/conversations/c1/active-session").json
    assert body is not None
    assert (body["sessionId"], body["status"]) == ("first", "completed")


def test_it_is_visible_until_its_time_is_over(host: Host) -> None:
    host.begin().end()
    host.clock.move(TTL - 1000)
    assert host.get("/conversations/c1/active-session").status_code == 200
    host.clock.move(1000)
    assert host.get("/conversations/c1/active-session").status_code == 404


@pytest.mark.parametrize("path", ["active-session", "task-status"])
def test_an_unchanged_answer_is_304(host: Host, path: str) -> None:
    job = host.begin()
    first = host.get(f"/conversations/c1/{path}")
    assert first.headers["Cache-Control"] == "private, no-cache"
    tag = first.headers["ETag"]
    again = host.get(f"/conversations/c1/{path}", headers={"If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == tag
    job.append(["a"])
    job.end()
    changed = host.get(f"/conversations/c1/{path}", headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag


@pytest.mark.parametrize("conversation", STRANGE_IDS)
def test_strange_conversation_ids_see_only_their_own(host: Host, conversation: str) -> None:
    for n, name in enumerate(STRANGE_IDS):
        if name != conversation:
            host.begin(f"s{n}", name, f"t{n}")
    path = f"/conversations/{url(conversation)}"
    assert host.get(f"{path}/active-session").status_code == 404
    host.begin("mine", conversation, "t")
    body = host.get(f"{path}/active-session").json
    assert body is not None
    assert (body["sessionId"], body["conversationId"]) == ("mine", conversation)


@pytest.mark.parametrize("name", ["a" * 257, "é" * 129, "%0A", "%00", "%EF%BF%BD", "%FF", "a%7Fb"])
def test_an_id_outside_the_rule_is_422(host: Host, name: str) -> None:
    for path in (f"/conversations/{name}/active-session", f"/conversations/{name}/task-status", f"/sessions/{name}"):
        response = host.get(path)
        assert response.status_code == 422, path
        assert response.json is not None
        assert set(response.json) == {"error", "errors"}
    assert host.calls == []


def test_stop_asks_the_active_task_to_stop(host: Host) -> None:
    job = host.begin()
    host.clock.move(10)
    expected = {
        "sessionId": "s1",
        "taskId": "t1",
        "state": "running",
        "cancelRequestedAt": START + 10,
        "conversationId": "c1",
    }
    response = host.post("/conversations/c1/stop")
    assert (response.status_code, response.json) == (202, expected)
    host.clock.move(10)
    again = host.post("/conversations/c1/stop?session_id=s1")
    assert (again.status_code, again.json) == (202, expected)
    assert job.task.cancel_requested_at == START + 10


def test_stop_of_a_pending_task_ends_it(host: Host) -> None:
    job = host.begin(pending=True)
    response = host.post("/conversations/c1/stop")
    assert response.status_code == 202
    assert response.json is not None
    assert response.json["state"] == "cancelled"
    assert job.texts() == ["end"]


def test_a_stop_that_names_another_session_is_409_and_stops_nothing(host: Host) -> None:
    job = host.begin("s1")
    host.session("s2")
    response = host.post("/conversations/c1/stop?session_id=s2")
    assert response.status_code == 409
    assert response.json is not None
    assert set(response.json) == {"error", "sessionId", "conversationId"}
    assert job.task.cancel_requested_at is None


def test_a_stop_that_names_one_of_two_active_sessions_stops_that_one(host: Host) -> None:
    first, second = host.begin("s1", task="t1"), host.begin("s2", task="t2")
    response = host.post("/conversations/c1/stop?session_id=s1")
    assert response.status_code == 202
    assert response.json is not None
    assert (response.json["sessionId"], response.json["taskId"]) == ("s1", "t1")
    assert first.task.cancel_requested_at is not None
    assert second.task.cancel_requested_at is None


def test_a_stop_when_nothing_is_active_is_404(host: Host) -> None:
    expected = {"error": "No active session to stop", "conversationId": "c1"}
    for prepare in (lambda: None, host.session, lambda: host.begin().end()):
        prepare()
        response = host.post("/conversations/c1/stop")
        assert (response.status_code, response.json) == (404, expected)


def test_a_status_read_is_one_call_of_the_store(host: Host) -> None:
    host.begin()
    for path in ("active-session", "task-status"):
        host.calls.clear()
        host.get(f"/conversations/c1/{path}")
        assert host.calls == ["snapshot"]


def test_unknown_urls_and_methods_are_the_hosts(host: Host) -> None:
    assert host.get("/conversations/c1/nothing").status_code == 404
    assert host.get("/conversations/a%2Fb/active-session").status_code == 404
    assert host.get("/conversations/c1/active-session/").status_code == 404
    assert host.post("/conversations/c1/active-session").status_code == 405


def test_a_session_that_is_not_among_the_recent_ones_is_resumed_as_any(host: Host) -> None:
    host.session("first", "c1")
    host.clock.move(1)
    job = host.begin("old", "c1", "old")
    job.append(["a"])
    job.end()
    for number in range(RECENT_SESSIONS + 2):
        host.clock.move(1)
        host.begin(f"s{number}", "c1", f"t{number}").end()
    assert "old" not in host.store.snapshot("c1").sessions
    assert [event["event"] for event in events(host.get("/conversations/c1/resume/s1").data)] == ["end"]
    found = events(host.get("/conversations/c1/resume/old").data)
    assert [event["event"] for event in found] == ["token", "end"]
    assert host.get(f"/conversations/c1/resume/old?cursor={found[-1]['id']}").status_code == 204
    host.session("elsewhere", "c2")
    assert host.get("/conversations/c1/resume/elsewhere").status_code == 404
    host.user = "u2"
    assert host.get("/conversations/c1/resume/old").status_code == 404


def test_a_conversation_with_too_many_live_tasks_is_429(make_host: MakeHost) -> None:
    host = make_host(fresh=True)
    for number in range(LIVE_TASKS):
        host.begin(f"s{number % 4}", "c1", f"t{number}")

    @host.app.route("/start")
    def start() -> str:
        with host.extension.run("c1", "more"):
            return "begun"

    response = host.client.get("/start")
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) > 0
    assert response.json is not None
    assert (response.json["conversationId"], response.json["sessionId"]) == ("c1", "more")
