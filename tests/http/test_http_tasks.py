"""A session's tasks, their results, their events as JSON pages."""

from __future__ import annotations

import threading

import pytest
from harness import LEASE_MS, START, a_session, a_task, begin
from hosts import Host, MakeHost

from flask_sessionstatus.stores.base import Change

FIELDS = {
    *("id", "sessionId", "conversationId", "type", "state", "attempt", "progress", "createdAt", "startedAt"),
    *("updatedAt", "finishedAt", "estimatedCompletion", "estimateBasis", "cancelRequestedAt", "resultAvailable"),
    *("errorMessage", "errorType"),
}


def test_a_task_has_exactly_its_fields(host: Host) -> None:
    job = host.begin(type="report")
    job.append(change=Change(current=1, total=2, message="half", remaining=500))
    body = host.get("/sessions/s1/tasks/t1").json
    assert body is not None
    assert set(body) == FIELDS
    assert (body["id"], body["sessionId"], body["conversationId"], body["type"]) == ("t1", "s1", "c1", "report")
    assert (body["state"], body["attempt"]) == ("running", 1)
    assert body["progress"] == {"current": 1, "total": 2, "message": "half"}
    assert (body["createdAt"], body["startedAt"], body["finishedAt"]) == (START, START, None)
    assert (body["estimatedCompletion"], body["estimateBasis"]) == (START + 500, "progress")
    assert (body["resultAvailable"], body["errorMessage"], body["errorType"]) == (False, None, None)


def test_the_tasks_are_a_bare_array_latest_first(host: Host) -> None:
    host.begin(task="t1").end()
    host.begin(task="t2").end("error", error_type="E", error_message="m")
    host.begin(task="t3")
    body = host.get("/sessions/s1/tasks").json
    assert body is not None
    assert [task["id"] for task in body] == ["t3", "t2", "t1"]
    assert (body[1]["errorType"], body[1]["errorMessage"]) == ("E", "m")
    assert set(body[0]) == FIELDS


@pytest.mark.parametrize("state", ["running", "completed", "error", "lost", "pending", "cancelled"])
def test_tasks_can_be_had_by_state(host: Host, state: str) -> None:
    host.begin(task="lost")
    host.clock.move(LEASE_MS)
    for ending in ("completed", "error", "cancelled"):
        host.begin(task=ending).end(ending)
    host.begin(task="running")
    host.begin(task="pending", pending=True)
    body = host.get(f"/sessions/s1/tasks?state={state}").json
    assert body is not None
    assert [(task["id"], task["state"]) for task in body] == [(state, state)]


def test_a_state_filter_is_applied_before_the_limit(host: Host) -> None:
    host.begin(task="t1").end()
    for n in range(3):
        host.begin(task=f"r{n}")
    body = host.get("/sessions/s1/tasks?state=completed&limit=1").json
    assert body is not None
    assert [task["id"] for task in body] == ["t1"]


@pytest.mark.parametrize("query", ["state=done", "limit=0", "limit=201", "limit=x", "limit=-1", "limit=1.5"])
def test_a_wrong_query_is_422(host: Host, query: str) -> None:
    host.begin()
    response = host.get(f"/sessions/s1/tasks?{query}")
    assert response.status_code == 422
    assert response.json is not None
    assert list(response.json["errors"]) == [query.partition("=")[0]]


def test_a_result_is_served_as_it_was_given(host: Host) -> None:
    job = host.begin()
    assert host.get("/sessions/s1/tasks/t1/result").status_code == 404
    job.end(result='{"text":"ключ","n":[1.5,null]}')
    response = host.get("/sessions/s1/tasks/t1/result")
    assert (response.status_code, response.mimetype) == (200, "application/json")
    assert response.data.decode() == '{"text":"ключ","n":[1.5,null]}'
    body = host.get("/sessions/s1/tasks/t1").json
    assert body is not None
    assert body["resultAvailable"] is True


@pytest.mark.parametrize("path", ["", "/result", "/events"])
def test_an_unknown_task_is_404(host: Host, path: str) -> None:
    host.begin(task="t1")
    host.begin("s2", "c1", "t2")
    for task in ("t9", "t2"):
        response = host.get(f"/sessions/s1/tasks/{task}{path}")
        assert response.status_code == 404
        assert response.json == {"error": "Task not found", "sessionId": "s1", "taskId": task}


def test_cancel_asks_a_task_to_stop(host: Host) -> None:
    job = host.begin()
    response = host.post("/sessions/s1/tasks/t1/cancel")
    assert response.status_code == 202
    assert response.json == {
        "sessionId": "s1",
        "taskId": "t1",
        "state": "running",
        "cancelRequestedAt": START,
        "conversationId": "c1",
    }
    assert job.task.cancel_requested_at == START
    assert host.post("/sessions/s1/tasks/t9/cancel").status_code == 404


def test_a_cancel_of_an_ended_task_says_how_it_ended(host: Host) -> None:
    host.begin().end()
    response = host.post("/sessions/s1/tasks/t1/cancel")
    assert response.status_code == 202
    assert response.json is not None
    assert (response.json["state"], response.json["cancelRequestedAt"]) == ("completed", None)


# Events as JSON


def test_events_are_a_json_page(host: Host) -> None:
    job = host.begin()
    job.append(["a", "b"])
    assert host.get("/sessions/s1/tasks/t1/events").json == {
        "events": [
            {"cursor": f"{job.epoch}-1", "type": "token", "data": {"text": "a"}},
            {"cursor": f"{job.epoch}-2", "type": "token", "data": {"text": "b"}},
        ],
        "cursor": f"{job.epoch}-2",
        "done": False,
    }
    assert host.get(f"/sessions/s1/tasks/t1/events?cursor={job.epoch}-2").json == {
        "events": [],
        "cursor": f"{job.epoch}-2",
        "done": False,
    }
    job.end()
    end = host.get(f"/sessions/s1/tasks/t1/events?cursor={job.epoch}-2").json
    assert end == {
        "events": [{"cursor": f"{job.epoch}-3", "type": "end", "data": {"state": "completed"}}],
        "cursor": f"{job.epoch}-3",
        "done": True,
    }
    assert host.get(f"/sessions/s1/tasks/t1/events?cursor={job.epoch}-3").json == {
        "events": [],
        "cursor": f"{job.epoch}-3",
        "done": True,
    }


def test_pages_go_on_from_their_cursor_to_the_end(host: Host) -> None:
    job = host.begin()
    job.append([str(n) for n in range(1200)])
    job.end()
    seen: list[str] = []
    cursor, done, pages = "0-0", False, 0
    while not done:
        body = host.get(f"/sessions/s1/tasks/t1/events?cursor={cursor}").json
        assert body is not None
        assert len(body["events"]) <= 256
        seen += [event["data"]["text"] for event in body["events"] if event["type"] == "token"]
        cursor, done, pages = body["cursor"], body["done"], pages + 1
    assert seen == [str(n) for n in range(1200)]
    assert pages == 5


def test_a_long_poll_answers_when_something_happens(host: Host) -> None:
    job = host.begin()
    timer = threading.Timer(0.1, lambda: job.append(["a"]))
    timer.start()
    body = host.get("/sessions/s1/tasks/t1/events?wait=10").json
    timer.join()
    assert body is not None
    assert [event["type"] for event in body["events"]] == ["token"]


def test_a_long_poll_ends_empty_after_its_time(make_host: MakeHost) -> None:
    host = make_host(max_wait=0.05)
    host.begin()
    body = host.get("/sessions/s1/tasks/t1/events?wait=3600").json
    assert body == {"events": [], "cursor": "0-0", "done": False}
    assert host.state.engine.hub.followers == 0


@pytest.mark.parametrize("wait", ["-1", "x", "nan", "inf", "3601"])
def test_a_wrong_wait_is_422(host: Host, wait: str) -> None:
    host.begin()
    assert host.get(f"/sessions/s1/tasks/t1/events?wait={wait}").status_code == 422


def test_a_page_past_the_end_begins_with_a_gap(host: Host) -> None:
    job = host.begin()
    job.append(["a"])
    job.end()
    body = host.get(f"/sessions/s1/tasks/t1/events?cursor={job.epoch}-9").json
    assert body is not None
    assert body["events"][0]["type"] == "gap"
    assert body["events"][0]["data"] == {"requested": f"{job.epoch}-9", "firstAvailable": f"{job.epoch}-1"}
    cursor = body["cursor"]
    rest = body["events"][1:]
    if not body["done"]:
        body = host.get(f"/sessions/s1/tasks/t1/events?cursor={cursor}").json
        assert body is not None
        rest += body["events"]
    assert [event["type"] for event in rest] == ["token", "end"]


def test_tasks_of_a_strange_id_are_found(host: Host) -> None:
    begin(host.store, a_session("a:b *?", "c1"), a_task("ключ %2e"))
    response = host.get("/sessions/a%3Ab%20%2A%3F/tasks/%D0%BA%D0%BB%D1%8E%D1%87%20%252e")
    assert response.status_code == 200
    assert response.json is not None
    assert response.json["id"] == "ключ %2e"
